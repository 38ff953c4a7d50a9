"""The assertions of LeRobot's tests/optim/test_schedulers.py, on the schedule inside the optimizer.

The figures are those of LeRobot at 7427f31 (August 2026): an Adam of lr 0.001, a run of 100 updates, one of them made.
"""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    Horizon,
    ScheduledOptimizer,
    load_optimizer_state,
    named_state,
    save_optimizer_state,
)

VQBET = {"num_warmup_steps": 10, "num_vqvae_training_steps": 20, "num_cycles": 0.5}
COSINE_DECAY = {"num_warmup_steps": 10, "num_decay_steps": 90, "peak_lr": 0.01, "decay_lr": 0.001}
ASSERTED = {
    "diffuser": ({"name": "cosine", "num_warmup_steps": 5}, 0.0002),
    "vqbet": (VQBET, 0.001),
    "cosine_decay_with_warmup": (COSINE_DECAY, 0.0001818181818181819),
}
"""By key: the config, and the lr after one update."""

KEYS = {
    **{key: fields for key, (fields, _) in ASSERTED.items()},
    "constant_with_warmup": {"num_warmup_steps": 30},
    "cosine_annealing_with_warmup": {"num_warmup_steps": 30},
}
"""All of LeRobot's schedulers; its tests have none for the last two."""


def built(key, length=100):
    factory = OPTIMIZER_BUILDER_REGISTRY["adam"](schedule={"type": key, **KEYS[key]})
    return factory.build([("weight", nn.Parameter(torch.ones(10, 10)))], horizon=Horizon(length))


def updated(optimizer, updates):
    for _ in range(updates):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(10, 10)
        optimizer.step()
    return optimizer


def vqbet_factor(update):
    """LeRobot's formula for VQBET over 100 updates, written from its source."""
    if update < 20:
        return 1.0
    return (update - 20) / 10 if update < 30 else 0.5 * (1 + math.cos(math.pi * (update - 30) / 90))


@pytest.mark.parametrize("key", ASSERTED)
def test_lr_and_position_after_one_update_are_those_that_lerobot_asserts(key):
    optimizer = built(key)
    assert isinstance(optimizer, torch.optim.Adam)
    assert isinstance(optimizer, ScheduledOptimizer)
    updated(optimizer, 1)
    assert optimizer.scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]] == [ASSERTED[key][1]]
    assert optimizer.scheduler.last_epoch == 1
    assert optimizer.param_groups[0]["initial_lr"] == 0.001
    saved = json.loads(json.dumps(optimizer.state_dict()["scheduler"]))
    assert saved["last_epoch"] == 1


@pytest.mark.parametrize("updates", [0, 1, 24, 99, 130])
@pytest.mark.parametrize("key", KEYS)
def test_a_loaded_state_goes_on_at_the_lr_where_it_was_saved(tmp_path, key, updates):
    optimizer, fresh = updated(built(key), updates), built(key)
    save_optimizer_state(optimizer, tmp_path)
    load_optimizer_state(fresh, tmp_path)
    assert fresh.scheduler.state_dict() == optimizer.scheduler.state_dict()
    for _ in range(4):
        assert fresh.scheduler.last_epoch == optimizer.scheduler.last_epoch
        assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        updated(fresh, 1)
        updated(optimizer, 1)


def test_a_shorter_run_shortens_warm_up_and_decay():
    """At 45 updates of the 90 to decay_lr the warm-up of 10 becomes 5."""
    optimizer = built("cosine_decay_with_warmup", length=45)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001 / 6)
    assert updated(optimizer, 45).param_groups[0]["lr"] == pytest.approx(0.0001)


@pytest.mark.parametrize("updates", [1, 24, 70])
def test_the_converted_scheduler_file_is_the_state_of_lerobots_scheduler(cli, tmp_path, updates):
    theirs = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=0.001)
    scheduler = LambdaLR(theirs, vqbet_factor)
    for _ in range(updates):
        theirs.step()
        scheduler.step()
    optimizer = updated(built("vqbet"), updates)
    state, folder = named_state(optimizer), tmp_path / "policy"
    folder.mkdir()
    save_file({"weight": optimizer.param_groups[0]["params"][0].detach()}, folder / "model.safetensors")
    save_file(state.tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(state.values))
    code, printed = cli("checkpoint", "convert", folder, tmp_path / "out", "--to", "lerobot")
    assert code == 0, printed
    written = json.loads((tmp_path / "out/policy/scheduler_state.json").read_text())
    expected = scheduler.state_dict()
    assert written.pop("_last_lr") == pytest.approx(expected.pop("_last_lr"), rel=1e-12)
    assert written == expected
