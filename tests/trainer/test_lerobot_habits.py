"""Mistakes of people who know LeRobot's configs: each message names the place, and the name or the value to use."""

import copy

import pytest
import yaml
from conftest import ROOT, needs
from rich.console import Console

from trainer import ConfigError, load_config
from trainer.offline_trainer import OfflineTrainer

CONFIG = yaml.safe_load((ROOT / "configs/button_press.yaml").read_text())
DATA, PARAMS, HEAD = "data.params.", "train.objective.params.", "model.components.action_head.params."
ENVIRONMENT = {"type": "gym", "params": {"id": "Pendulum-v1"}, "n_episodes": 5}


def message(changed):
    """Return the error of the demo's config without its environment, with the values in `changed` by dotted key."""
    config = copy.deepcopy(CONFIG) | {"plugins": []}
    config["data"]["params"]["root"] = str(ROOT / "configs/button_press/demonstrations")
    config["train"] |= {"evaluation": None, "keep_best": None, "pictures": False}
    with pytest.raises(ConfigError) as error:
        OfflineTrainer(load_config(config, changed), Console(quiet=True))
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dataset", {"repo_id": "lerobot/pusht"}, "dataset.repo_id: is a name of LeRobot's configs. Here it is data."),
        ("dataset", {"streaming": True}, "dataset: is a name of LeRobot's configs. Here it is data.params, with"),
        (
            "policy.type",
            "act",
            "policy.type: is a name of LeRobot's configs. Here it is model.policy.type, as lerobot.",
        ),
        ("policy.path", "someone/act", "Here it is model.policy.path. `innerstep import-lerobot` converts a whole"),
        ("policy.optimizer.lr", 1e-4, "Here it is model.component_optims.policy.params."),
        (
            "optimizer.lr",
            1e-4,
            "optimizer.lr: is a name of LeRobot's configs. Here it is model.component_optims.policy.",
        ),
        ("scheduler.num_warmup_steps", 5, "Here it is params.schedule of an entry of model.component_optims"),
        ("env.type", "pusht", "env.type: is a name of LeRobot's configs. Here it is train.evaluation.params.id"),
        ("eval.n_episodes", 5, "eval.n_episodes: is a name of LeRobot's configs. Here it is train.evaluation.n_"),
        ("wandb.enable", True, "Here it is train.log, which has no sink for W&B"),
        ("batch_size", 8, "batch_size: has no place here; write data.batch_size"),
        ("config_path", "a.json", "Here it is the argument of `innerstep train`"),
        (PARAMS + "n_obs_steps", 2, PARAMS + "n_obs_steps: is a parameter of the data: data.params.n_obs_steps"),
        (PARAMS + "horizon", 16, "is a parameter of the data: data.params.chunk"),
        (PARAMS + "device", "cuda", PARAMS + "device: is decided by train.device"),
        (PARAMS + "use_amp", True, PARAMS + "use_amp: is decided by train.precision"),
        (PARAMS + "optimizer_lr", 1e-4, "belongs to the optimizer of a component: model.component_optims.NAME.params"),
        ("data.repo_id", "lerobot/pusht", "is a parameter of the class, and belongs inside params: {repo_id:"),
        ("data.num_workers", 4, "data.num_workers: unknown name; did you mean 'workers'?"),
        ("data.type", "LeRobotDataset", "did you mean 'lerobot'?"),
        ("train.steps", 10, "train.steps: unknown name; did you mean 'total_steps'?"),
        ("train.eval_freq", 10, "did you mean 'eval_every'?"),
        ("train.save_freq", 10, "did you mean 'save_every'?"),
        (PARAMS + "n_action_step", 4, "did you mean 'n_action_steps'"),
        ("train.evaluation", {**ENVIRONMENT, "batch_size": 10}, "train.evaluation.batch_size: batch size cannot be"),
    ],
)
def test_another_name_or_number_is_refused_with_the_one_to_use(key, value, words):
    assert words in message({key: value})


@needs("pyarrow")
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (PARAMS + "normalization_mapping", {"state": "min_max"}, ".normalization_mapping.state: neither"),
        (HEAD + "chunk", 16, "[2, 8, 4] (samples, actions of a chunk, size of an action); got [2, 16, 4]"),
        (HEAD + "action_dim", 7, "[2, 8, 4] (samples, actions of a chunk, size of an action); got [2, 8, 7]"),
        (PARAMS + "n_action_steps", 16, "n_action_steps: must be at most 8"),
        (DATA + "root", "demos", "data.params.root: must be the folder of a data set; /"),
        ("train.keep_best", {"monitor": "val_success", "mode": "max"}, "train.keep_best.monitor: waits for"),
    ],
)
def test_a_value_that_does_not_fit_the_data_is_refused_with_its_place(key, value, words):
    assert words in message({key: value})


@needs("pyarrow")
def test_a_metric_that_no_evaluation_has_is_refused_with_both_kinds():
    text = message({DATA + "held_out": 0.0, "train.keep_best": {"monitor": "val_success", "mode": "max"}})
    assert "no held-out split" in text
    assert "no train.evaluation" in text


@needs("gymnasium")
def test_an_environment_of_a_package_that_is_missing_is_refused_with_its_path():
    text = message({"train.evaluation": {"type": "gym", "params": {"id": "gym_none:gym_none/PushT-v0"}}})
    assert "train.evaluation.params.id: gym_none cannot be imported" in text
