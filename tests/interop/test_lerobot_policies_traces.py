"""Training LeRobot's policies, whole and in parts: the losses and weights are those of LeRobot's own classes."""

import functools
import json

import pytest
import torch
from conftest import ROOT, metrics_of, needs
from sample_lerobot_policies import PARTS, UPDATES, config, losses_of_lerobot

from trainer import load_run, train
from trainer.splitting.parts import whole_module

pytestmark = [needs("lerobot"), pytest.mark.slow]

GOLDEN = json.loads((ROOT / "tests/golden/lerobot_policies.json").read_text())


LONG_WARMUP = {"act": {}, "diffusion": {"scheduler_warmup_steps": 500}}
"""LeRobot's own warm-up. With a short one the network amplifies the rounding of another step to 6e-4 in 20 updates."""


@functools.cache
def reference(key, has_long_warmup=False):
    """Return LeRobot's losses and its policy after the last update."""
    return losses_of_lerobot(key, **LONG_WARMUP[key] if has_long_warmup else {})


def trained(run, key, in_parts, has_long_warmup=False, **optimizer):
    """Return the losses and the weights of a run with LeRobot's presets and these parameters of each optimizer."""
    parts = PARTS[key] if in_parts else {}
    whole_is_in_parts = key == "diffusion" and parts
    names = list(parts) if whole_is_in_parts else ["policy", *parts]
    optims = {name: {"type": "preset", "params": optimizer} for name in names}
    train(config(key, run, optims, parts, LONG_WARMUP[key] if has_long_warmup else {}))
    losses = [line["loss"] for line in metrics_of(run) if line["split"] == "train"]
    return losses, whole_module(load_run(run).components["policy"]).state_dict()


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_updates_equal_lerobots_bit_for_bit_with_foreach(tmp_path, key, in_parts):
    expected, policy = reference(key)
    losses, weights = trained(tmp_path / "run", key, in_parts, implementation="foreach")
    assert losses == expected
    theirs = policy.state_dict()
    assert weights.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(weights[name], theirs[name])] == []


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_updates_equal_lerobots_within_rounding_by_default(tmp_path, key, in_parts):
    has_long_warmup = bool(LONG_WARMUP[key])
    losses, _ = trained(tmp_path / "run", key, in_parts, has_long_warmup)
    assert losses == pytest.approx(reference(key, has_long_warmup)[0], rel=1e-5)


@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_lerobot_still_trains_as_when_the_golden_trace_was_made(key):
    losses, _ = reference(key)
    assert len(losses) == UPDATES
    assert losses == pytest.approx(GOLDEN[key], rel=1e-3)
