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


@functools.cache
def reference(key):
    """Return LeRobot's losses and its policy after the last update."""
    return losses_of_lerobot(key)


def trained(run, key, parts, **params):
    """Return the losses and the weights of a run with LeRobot's presets; `params` go to each optimizer."""
    whole_is_in_parts = key == "diffusion" and parts
    names = list(parts) if whole_is_in_parts else ["policy", *parts]
    train(config(key, run, {name: {"type": "preset", "params": params} for name in names}, parts))
    losses = [line["loss"] for line in metrics_of(run) if line["split"] == "train"]
    return losses, whole_module(load_run(run).components["policy"]).state_dict()


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_updates_equal_lerobots_bit_for_bit_with_foreach(tmp_path, key, in_parts):
    expected, policy = reference(key)
    losses, weights = trained(tmp_path / "run", key, PARTS[key] if in_parts else {}, implementation="foreach")
    assert losses == expected
    theirs = policy.state_dict()
    assert weights.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(weights[name], theirs[name])] == []


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_updates_equal_lerobots_within_rounding_by_default(tmp_path, key, in_parts):
    losses, _ = trained(tmp_path / "run", key, PARTS[key] if in_parts else {})
    assert losses == pytest.approx(reference(key)[0], rel=1e-5)


@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_lerobot_still_trains_as_when_the_golden_trace_was_made(key):
    losses, _ = reference(key)
    assert len(losses) == UPDATES
    assert losses == pytest.approx(GOLDEN[key], rel=1e-3)
