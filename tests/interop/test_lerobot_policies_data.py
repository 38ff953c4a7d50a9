"""What LeRobot's policies need of data and config: features, time steps, modes; and policies that LeRobot saved."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import needs
from safetensors.torch import load_file
from sample_lerobot_policies import PARAMS, PARTS, config, lerobot_config, lerobot_data

from trainer import ConfigError, DataSet, load_run, train
from trainer.lerobot_policies.family import policy_class
from trainer.lerobot_policies.pretrained import policy_of_folder
from trainer.lerobot_policies.saving import save_pretrained
from trainer.offline_trainer import OfflineTrainer
from trainer.splitting.parts import whole_module

pytestmark = needs("lerobot")

PRESET = {"policy": {"type": "preset"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of an ACT that LeRobot saved with its processors."""
    from lerobot.policies.factory import make_policy, make_pre_post_processors

    made, folder = lerobot_config("act", kl_weight=3.0), tmp_path_factory.mktemp("lerobot") / "pretrained_model"
    data = lerobot_data(made)
    torch.manual_seed(7)
    make_policy(made, ds_meta=data.meta).save_pretrained(folder)
    for processor in make_pre_post_processors(made, dataset_stats=data.meta.stats):
        processor.save_pretrained(folder)
    return folder


def started(made):
    """Return the trainer of a config, which has not trained."""
    from rich.console import Console

    from trainer.config.load import load_config

    return OfflineTrainer(load_config(made), Console(quiet=True))


def with_data(made, **params):
    made["data"]["params"] = {**made["data"]["params"], **params}
    return made


def refused(made):
    with pytest.raises(ConfigError) as caught:
        started(made)
    return str(caught.value)


def test_the_features_of_the_data_are_written_into_the_config(tmp_path):
    made = config("act", tmp_path / "run", PRESET, total_steps=1)
    train(made)
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["policy"]["params"]
    assert written["input_features"]["observation.image"] == {"type": "VISUAL", "shape": [3, 96, 96]}
    assert written["output_features"] == {"action": {"type": "ACTION", "shape": [2]}}
    assert {name: written[name] for name in PARAMS["act"]} == PARAMS["act"]


def test_given_features_stay_and_must_be_those_of_the_data(tmp_path):
    made = config("act", tmp_path / "run", PRESET)
    given = {"observation.state": {"type": "ENV", "shape": [2]}}
    given["observation.image"] = {"type": "VISUAL", "shape": [3, 96, 96]}
    made["model"]["policy"]["params"] = {**PARAMS["act"], "input_features": given}
    data = started(config("act", tmp_path / "run", PRESET)).data
    completed = policy_class("act").complete_params(made["model"]["policy"]["params"], data)
    assert completed["input_features"] == given
    given["observation.image"]["shape"] = [3, 64, 96]
    assert "input_features.observation.image.shape: must be the data set's, [3, 96, 96]" in refused(made)
    made["model"]["policy"]["params"]["input_features"] = {"observation.imag": {"type": "VISUAL", "shape": [3, 96, 96]}}
    assert "did you mean 'observation.image'" in refused(made)


@pytest.mark.parametrize(
    ("key", "data", "remedy"),
    [
        ("act", {"chunk": 8}, "Set data.params.chunk: 16"),
        ("act", {"n_obs_steps": 2}, "Set data.params.n_obs_steps: 1"),
        ("diffusion", {"n_obs_steps": 1}, "Set data.params.n_obs_steps: 2"),
        ("diffusion", {"deltas": None, "chunk": 16}, "Set data.params.deltas: {action: [-1, 0, 1, 2, 3, 4, 5,"),
    ],
)
def test_time_steps_that_the_data_lack_are_an_error_with_the_remedy(tmp_path, key, data, remedy):
    message = refused(with_data(config(key, tmp_path / "run", PRESET), **data))
    assert message.startswith(f"data: lerobot.{key} needs ")
    assert remedy in message


def test_the_remedy_for_time_steps_works(tmp_path):
    made = with_data(config("diffusion", tmp_path / "run", PRESET), deltas=None, n_obs_steps=1)
    remedy = refused(made).partition("Set ")[2]
    n_obs_steps, deltas = (yaml.safe_load(line) for line in remedy.split(" and "))
    values = {name.rpartition(".")[2]: value for name, value in {**n_obs_steps, **deltas}.items()}
    assert started(with_data(made, **values)).components.keys() == {"policy"}


def test_data_without_features_are_refused():
    class Plain(DataSet):
        train = held_out = None

    with pytest.raises(ConfigError, match="needs a data set with features; Plain has none"):
        policy_class("act").complete_params({}, Plain())


def test_modes_of_normalization_replace_those_of_the_policy(tmp_path):
    made = config("act", tmp_path / "run", PRESET)
    made["model"]["policy"]["normalization"] = {"STATE": "MIN_MAX"}
    built = started(made)
    modes, preprocessor, _ = built.objective.lerobot_parts(built.components)
    assert {kind: mode.value for kind, mode in modes.normalization_mapping.items()} == {
        "VISUAL": "MEAN_STD",
        "STATE": "MIN_MAX",
        "ACTION": "MEAN_STD",
    }
    low = built.data.statistics["observation.state"]["min"]
    normalized = preprocessor({"observation.state": low.unsqueeze(0)})["observation.state"]
    torch.testing.assert_close(normalized, torch.full((1, 2), -1.0))
    made["model"]["policy"]["normalization"] = {"STATE": "MINMAX"}
    assert "MINMAX" in refused(made)


def test_a_policy_that_lerobot_saved_is_trained_in_parts_and_goes_out_again(tmp_path, saved):
    from lerobot.policies.act.modeling_act import ACTPolicy

    optims = {name: {"type": "preset"} for name in ("policy", *PARTS["act"])}
    made = config("act", tmp_path / "run", optims, PARTS["act"], total_steps=2)
    del made["model"]["policy"]["type"], made["model"]["policy"]["params"]
    made["model"]["policy"]["path"] = str(saved)
    theirs = load_file(saved / "model.safetensors")
    before = whole_module(started(made).components["policy"])
    assert before.config.kl_weight == 3.0
    assert all(torch.equal(value, theirs[name]) for name, value in before.state_dict().items())
    train(made)
    loaded = load_run(tmp_path / "run")
    save_pretrained(tmp_path / "out", loaded.components, loaded.objective)
    again = ACTPolicy.from_pretrained(tmp_path / "out", strict=True)
    assert again.config.kl_weight == 3.0
    weights = whole_module(loaded.components["policy"]).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    assert not all(torch.equal(value, theirs[name]) for name, value in weights.items())


def test_the_type_and_params_of_a_saved_policy(tmp_path, saved):
    kind, params = policy_of_folder(saved)
    assert kind == "lerobot.act"
    assert params["chunk_size"] == 16
    assert "device" not in params
    assert "push_to_hub" not in params


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_peft": True}, "adapter"),
        ({"type": None}, "no `type`"),
        ({"type": "acts"}, "did you mean 'act'"),
        ({"chunk_sizes": 3}, "chunk_sizes"),
    ],
)
def test_a_saved_config_that_does_not_fit_is_an_error(tmp_path, saved, change, words):
    folder = shutil.copytree(saved, tmp_path / "changed")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    made = config("act", tmp_path / "run", PRESET)
    made["model"]["policy"] = {"path": str(folder)}
    assert words in refused(made)


def test_a_folder_without_weights_is_an_error(tmp_path, saved):
    folder = shutil.copytree(saved, tmp_path / "changed")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        policy_of_folder(folder)
