"""Runs with moving averages, killed at any moment and resumed: the same averages, weights and metrics."""

import random

import faults
import pytest

pytestmark = pytest.mark.slow

ADAMW = {"type": "adamw", "params": {"lr": 1e-2}}
COMPONENTS = {
    **faults.COMPONENTS,
    "slow": {"ema_of": "first", "tau": 0.1},
    "slower": {"ema_of": "first", "tau": 0.01, "moves_with": "second"},
}
MODEL = {"components": COMPONENTS, "component_optims": {"first": {**ADAMW, "every": 3}, "second": ADAMW}}
SCHEDULE_FREE = {"components": COMPONENTS, "component_optims": faults.OPTIMS}
VARIANTS = {
    "all": {"model": MODEL, "ema": {"decay": 0.9}},
    "async, one component": {"model": MODEL, "ema": {"decay": 0.99, "components": ["first"]}, "save_async": True},
    "beside schedule-free": {"model": SCHEDULE_FREE, "ema": {"decay": 0.9, "power": None}},
    "half precision": {"model": MODEL, "ema": {"decay": 0.9}, "precision": "fp16"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_with_averages_ends_as_the_uninterrupted_one(lives, tmp_path, variant):
    changed = VARIANTS[variant]
    seconds = lives.whole(tmp_path / "whole", **changed)
    killed = faults.chain(lives, tmp_path / "killed", 5, seconds, random.Random(variant), **changed)
    whole = faults.end_of(tmp_path / "whole")
    assert whole.differences(killed.end) == []
    assert {"first/ema.safetensors", "first/ema.json", "slow/model.safetensors"} <= whole.files.keys()
