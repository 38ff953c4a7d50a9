"""A policy out to the hub in LeRobot's format: LeRobot loads it from there, and so does `model.policy.path`."""

import json

import pytest
import torch
import yaml
from conftest import needs
from rich.console import Console
from safetensors.torch import save
from sample_hub import _hub  # noqa: F401  # a fixture
from sample_lerobot_policies import PARTS, config

import trainer

pytestmark = [needs("lerobot"), pytest.mark.filterwarnings("ignore")]  # LeRobot warns of much

NAME = "someone/act"
STILL = {"type": "sgd", "params": {"lr": 0.0}}
OPTIMS = dict.fromkeys(("policy", "backbone", "vae"), STILL)


def act(run, **policy):
    """Return the config of one update, at lr 0, of ACT in three parts."""
    made = config("act", run, OPTIMS, {name: {"modules": [text]} for name, text in PARTS["act"].items()}, total_steps=1)
    made["model"]["policy"] |= policy
    return made


def parameters(run):
    """Return the parameters of a run's policy by their names in the whole policy."""
    components = trainer.load_run(run).components
    backbone = {f"model.backbone.{name}": value for name, value in components["backbone"].named_parameters()}
    return backbone | dict(components["policy"].named_parameters()) | dict(components["vae"].named_parameters())


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("pi0_fast", {"action_tokenizer_name": "stranger/code"}),  # LeRobot trusts the code of each of these
        ("wall_x", {"action_tokenizer_path": "stranger/code"}),
        ("act", {"vision_backbone": "stranger/code"}),
    ],
)
def test_a_policy_on_the_hub_names_no_repository_that_may_have_code(hub, tmp_path, kind, params):
    refusal = r"imports no module: .*; not imported: code of stranger/code"
    hub.add(NAME, {"config.json": json.dumps({"type": kind, **params}).encode(), "model.safetensors": save({})})
    made = act(tmp_path / "run")
    made["model"] = {"policy": {"path": f"hf://{NAME}"}, "component_optims": {"policy": STILL}}
    with pytest.raises(trainer.ConfigError, match=refusal):
        trainer.load_config(made)
    folder = tmp_path / "copied"
    folder.mkdir()
    for name, content in hub.files(NAME).items():
        (folder / name).write_bytes(content)
    made["model"]["policy"] = {"path": str(folder)}
    with pytest.raises(trainer.ConfigError, match=refusal):
        trainer.load_config(made)
    made["model"]["policy"] = {"type": f"lerobot.{kind}", "params": params}
    trainer.load_config(made)  # the user's own config may name it
    hub.add("someone/recipe", {"config.yaml": yaml.safe_dump(made).encode()})
    with pytest.raises(trainer.ConfigError, match=r"imports modules only with --allow-plugins.*code of stranger/code"):
        trainer.load_config("hf://someone/recipe")
    trainer.load_config("hf://someone/recipe", allow_plugins=True)


@pytest.mark.slow
def test_an_exported_policy_goes_to_the_hub_and_comes_back_on_both_ways(hub, tmp_path, cli):
    quiet = Console(quiet=True)
    trainer.train(act(tmp_path / "first"), console=quiet)
    assert cli("export", tmp_path / "first", tmp_path / "out", "--to", "lerobot")[0] == 0
    code, printed = cli("push", tmp_path / "out", NAME)
    assert code == 0, printed
    ours = parameters(tmp_path / "first")

    from lerobot.policies.act.modeling_act import ACTPolicy

    theirs = dict(ACTPolicy.from_pretrained(NAME, strict=True).named_parameters())
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name].cpu(), ours[name]) for name in ours)

    second = act(tmp_path / "second")
    second["model"]["policy"] = {"path": f"hf://{NAME}", "parts": second["model"]["policy"]["parts"]}
    trainer.train(second, console=quiet)
    again = parameters(tmp_path / "second")
    assert all(torch.equal(again[name], ours[name]) for name in ours)
