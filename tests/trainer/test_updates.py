"""One update: accumulated batches, several steps, compiled components, and sums in one order."""

import io
import os
import subprocess
import sys

import pytest
import sample_parts
import torch
from conftest import NO_TORCH_COMPILE, files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, SCHEDULE_FREE, WARMUP, config, drop, two, weights

from trainer import ConfigError, resume, train


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


MLPS = {name: {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [8]}} for name in ("a", "b")}


def lrs_and_losses(run):
    return [(line["lr/a"], line["loss"]) for line in metrics_of(run) if line["split"] == "train"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulated_batches_are_one_update(tmp_path, quiet, precision):
    optims = {"a": WARMUP, "b": {"type": "sgd", "params": {"lr": 0.1, "grad_clip_norm": None}}}
    data = {"params": {"samples": 32, "width": 4}}
    options = {"precision": precision, "grad_clip_norm": 1.0, "eval_every": 5}
    train(config(tmp_path / "large", MLPS, optims, data={**data, "batch_size": 16}, **options), console=quiet)
    small = {**data, "batch_size": 4}
    train(config(tmp_path / "small", MLPS, optims, data=small, accumulate=4, **options), console=quiet)
    large, accumulated = lrs_and_losses(tmp_path / "large"), lrs_and_losses(tmp_path / "small")
    assert [lr for lr, _ in large] == [lr for lr, _ in accumulated]
    tolerance = 1e-5 if precision == "fp32" else 1e-2  # half precision rounds each batch's sums on its own
    assert [loss for _, loss in large] == pytest.approx([loss for _, loss in accumulated], rel=tolerance)


def test_a_run_that_accumulates_is_taken_up_in_the_middle_of_an_epoch(tmp_path, quiet):
    optims = {"first": WARMUP, "second": SCHEDULE_FREE}
    options = {"data": {"params": {"samples": 50}, "batch_size": 8}, "accumulate": 3, "save_every": 5}
    for run in ("whole", "parts"):
        train(config(tmp_path / run, two(), optims, **options, eval_every=4), console=quiet)
    for later in ("step_00000010", "step_00000012"):
        drop(tmp_path / "parts" / "checkpoints" / later)
    resume(tmp_path / "parts", console=quiet)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_an_objective_of_several_steps_accumulates_each(tmp_path, quiet):
    components = {name: {"type": "normed"} for name in ("actor", "critic")}
    components["target"] = {"type": "normed", "freeze": True}
    optims = {"actor": ADAMW, "critic": ADAMW}
    train(config(tmp_path / "run", components, optims, objective="actor_critic", accumulate=2), console=quiet)
    assert len(lines := [line for line in metrics_of(tmp_path / "run") if line["split"] == "train"]) == 12
    assert lines[0]["loss/actor"] != lines[-1]["loss/actor"]


def test_a_component_stepped_twice_a_batch_cannot_accumulate(tmp_path, quiet, monkeypatch):
    def twice(self, components, batch, learner):
        outcome = self.losses(components, batch)
        learner.step(outcome.total, "a")
        learner.step(self.losses(components, batch).total, "a")
        return outcome

    monkeypatch.setattr(sample_parts.Regression, "update", twice)
    wanted = config(tmp_path / "run", MLPS, {"a": ADAMW, "b": ADAMW}, data={"params": {"width": 4}}, accumulate=2)
    with pytest.raises(ConfigError, match=r"^train\.accumulate: must be 1 for this objective, which updates a several"):
        train(wanted, console=quiet)


@pytest.mark.slow
@NO_TORCH_COMPILE
@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_compiled_components_train_alike(tmp_path, quiet):
    optims, data = {"a": WARMUP, "b": ADAMW}, {"params": {"width": 4}}
    for run, compiled in (("eager", False), ("compiled", True)):
        train(config(tmp_path / run, MLPS, optims, data=data, compile=compiled, total_steps=6), console=quiet)
    eager, fast = lrs_and_losses(tmp_path / "eager"), lrs_and_losses(tmp_path / "compiled")
    assert [loss for _, loss in eager] == pytest.approx([loss for _, loss in fast], rel=1e-5)
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs a torch with MKL")
def test_mkl_is_told_to_sum_in_one_order():
    code = "import trainer, torch; torch.ones(64, 64) @ torch.ones(64, 64)"
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"} | {"MKL_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "CNR:AUTO" in done.stdout
