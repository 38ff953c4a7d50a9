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
        ("dataset", {"repo_id": "lerobot/pusht"}, "dataset: unknown name; did you mean 'data'?"),
        ("policy", {"type": "act"}, "policy: unknown name. Known: seed, plugins, data, model, train"),
        ("data.repo_id", "lerobot/pusht", "Parameters of the class belong in params."),
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
    assert text.startswith("train.evaluation.params.id: gym_none cannot be imported")
