"""Checkpoints of earlier versions: each can be verified, resumed, and taken components from."""

import json
import shutil

import pytest
import torch
from conftest import ROOT, metrics_of
from rich.console import Console
from safetensors.torch import load_file

from trainer import load_config, resume
from trainer.checkpoint.directory import FORMAT_VERSION, verify
from trainer.offline_trainer import OfflineTrainer

GOLDEN = ROOT / "tests" / "golden"
VERSIONS = [*(f"v{version}" for version in range(1, FORMAT_VERSION + 1)), "0_1_0"]
WITH_STATE = "0_1_0"
"""The first version whose objectives and data sets have state."""


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path):
    """A copy of a run that an earlier version left half way, and what its end was."""
    run = shutil.copytree(GOLDEN / f"checkpoint_{request.param}", tmp_path / "run")
    return run, json.loads((GOLDEN / f"checkpoint_{request.param}_end.json").read_text())


def test_it_is_whole(old):
    assert verify(old[0] / "checkpoints/step_00000007")["step"] == 7


def test_its_state_is_restored(old):
    run, _ = old
    folder = run / "checkpoints/step_00000007"
    trainer = OfflineTrainer(load_config(run / "config.yaml", {"train.run_dir": str(run)}), Console(quiet=True), True)
    trainer.restore(folder)
    assert trainer.step == 7
    assert {name: one.scheduler.last_epoch for name, one in trainer.optimizers.items()} == dict.fromkeys(
        ("warm", "free", "falling"), 7
    )
    for name in ("warm", "falling", "frozen"):  # those of `free` are the averaged ones
        weights = load_file(folder / name / "model.safetensors")
        assert all(torch.equal(value, weights[key]) for key, value in trainer.components[name].state_dict().items())
    state = load_file(folder / "warm" / "optimizer.safetensors")
    for name, parameter in trainer.components["warm"].named_parameters():
        assert torch.equal(trainer.optimizers["warm"].state[parameter]["exp_avg"], state[f"{name}/exp_avg"])


def test_it_goes_on_to_where_it_went_then(old):
    run, end = old
    resume(run, console=Console(quiet=True))
    assert end.pop("split") == "held_out"
    ended = {name: metrics_of(run)[-1][name] for name in end}
    # The run is in half precision, and the biases before its BatchNorm move by rounding alone: where sums are taken in
    # another order, the loss changes by up to 6e-5 of itself. A lost part of the state changes it by at least 7e-4.
    assert ended == pytest.approx(end, rel=2**-11)


def test_the_state_of_objective_and_data_set_is_restored(tmp_path):
    run = shutil.copytree(GOLDEN / f"checkpoint_{WITH_STATE}", tmp_path / "run")
    folder = run / "checkpoints/step_00000007"
    trainer = OfflineTrainer(load_config(run / "config.yaml", {"train.run_dir": str(run)}), Console(quiet=True), True)
    assert trainer.objective.batches == 0
    trainer.restore(folder)
    saved = load_file(folder / "objective.safetensors")
    assert torch.equal(trainer.objective.scale, saved["objective/scale"])
    assert [torch.equal(x, saved[f"objective/last/{i}"]) for i, x in enumerate(trainer.objective.last)] == [True, True]
    assert trainer.objective.batches == 12  # five batches an epoch of three updates: 5 + 5 + 2
    assert 0 < trainer.objective.lowest < float("inf")
    assert trainer.data.train.served == json.loads((folder / "data.json").read_text())["state"]["dict"][0][1]
