"""`train.ema` and a target beside a policy in parts: the averages are those of the whole."""

import io
import re

import pytest
import torch
from conftest import files_of
from rich.console import Console
from safetensors.torch import load_file
from sample_policies import ADAMW, PARTS, policy_config
from sample_runs import drop, ready

from trainer import ConfigError, load_run, resume, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer

EMA = {"decay": 0.9}
LAST = "checkpoints/step_00000012"
OPTIM = {"type": "sgd", "params": {"lr": 0.05}}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=1000)


def averaged(run, parts=True, **changed):
    policy = {"parts": PARTS} if parts else {}
    optims = dict.fromkeys(["policy", *policy.get("parts", ())], OPTIM)
    return policy_config(run, policy, optims, **{"ema": EMA, "save_every": 5, "eval_every": 4, **changed})


def joined(run, file):
    """Return the tensors of all components under the names that they have in the policy."""
    folder, found = run / LAST, {}
    for name in ("policy", *PARTS):
        if (folder / name / file).exists():
            prefix = "model.backbone." if name == "backbone" else ""
            found |= {prefix + key: tensor for key, tensor in load_file(folder / name / file).items()}
    return found


def test_the_averages_of_a_policy_in_parts_are_those_of_the_whole(tmp_path, quiet):
    for parts in (False, True):
        train(averaged(tmp_path / f"parts_{parts}", parts), console=quiet)
    whole, parts = (joined(tmp_path / f"parts_{parts}", "ema.safetensors") for parts in (False, True))
    assert whole.keys() == parts.keys()
    assert {"model.offset", "model.token", "model.vae_scale", "model.backbone.1.running_var"} <= whole.keys()
    for name, average in whole.items():
        torch.testing.assert_close(parts[name], average, atol=1e-6, rtol=1e-5)
    weights = joined(tmp_path / "parts_True", "model.safetensors")
    assert not torch.allclose(weights["model.head.weight"], parts["model.head.weight"], atol=1e-4)


def test_an_evaluation_uses_the_averages_of_every_part(tmp_path, quiet):
    made = averaged(tmp_path / "run")
    trainer = ready(made, quiet)
    trainer.run()
    batch = trainer.data.held_out.batch(torch.arange(10))
    loss = trainer.evaluations.on_held_out()["loss"]
    loaded = load_run_of(tmp_path, made, quiet)
    with torch.no_grad():
        assert float(loaded.objective.losses(loaded.components, batch).total) == pytest.approx(loss, rel=1e-6)
        at_weights = trainer.objective.losses(trainer.components.eval(), batch).total
    assert float(at_weights) != pytest.approx(loss, rel=1e-3)


def load_run_of(tmp_path, made, quiet):
    made["train"]["run_dir"] = str(tmp_path / "again")
    train(made, console=quiet)
    return load_run(tmp_path / "again")


def test_a_resumed_policy_in_parts_has_the_same_averages(tmp_path, quiet):
    for run in ("whole", "parts"):
        train(averaged(tmp_path / run), console=quiet)
    drop(tmp_path / "parts" / LAST)
    drop(tmp_path / "parts/checkpoints/step_00000010")
    resume(tmp_path / "parts", console=quiet)
    assert files_of(tmp_path / "whole" / LAST) == files_of(tmp_path / "parts" / LAST)


def test_a_policy_starts_from_the_averages_of_another_run(tmp_path, quiet):
    train(averaged(tmp_path / "source"), console=quiet)
    averages = {**joined(tmp_path / "source", "model.safetensors"), **joined(tmp_path / "source", "ema.safetensors")}
    for parts in ({}, PARTS):
        init = {"path": str(tmp_path / "source"), "ema": True}
        made = policy_config(tmp_path / "next", {"parts": parts, "init_from": init})
        components = OfflineTrainer(load_config(made), quiet).components
        if not parts:
            state = components["policy"].state_dict()
            assert all(torch.equal(state[name], tensor) for name, tensor in averages.items())
        assert torch.equal(components["policy"].state_dict()["model.token"], averages["model.token"])
    train(averaged(tmp_path / "bare", ema=None), console=quiet)
    made = policy_config(tmp_path / "next", {"init_from": {"path": str(tmp_path / "bare"), "ema": True}})
    with pytest.raises(ConfigError, match=r"^model\.policy\.init_from: ema: .* has no averages of train\.ema"):
        OfflineTrainer(load_config(made), quiet)


def test_chosen_parts_are_averaged_and_a_part_has_no_target(tmp_path, quiet):
    train(averaged(tmp_path / "run", ema={**EMA, "components": ["backbone"]}), console=quiet)
    assert [path.parent.name for path in (tmp_path / "run" / LAST).glob("*/ema.json")] == ["backbone"]
    made = averaged(tmp_path / "next", ema={**EMA, "components": ["bakbone"]})
    with pytest.raises(ConfigError, match=re.escape("there is no component 'bakbone'; did you mean 'backbone'?")):
        OfflineTrainer(load_config(made), quiet)
    made = policy_config(tmp_path / "next", {"parts": PARTS}, dict.fromkeys(["policy", *PARTS], ADAMW))
    made["model"]["components"] = {"slow": {"ema_of": "backbone", "tau": 0.1}}
    with pytest.raises(
        ConfigError, match=r"model\.components\.slow\.ema_of: backbone is of model\.policy, .*train\.ema"
    ):
        load_config(made)
