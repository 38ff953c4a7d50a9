"""The schedules of diffusers, transformers and LeRobot, against diffusers' own traces and LeRobot's formulas."""

import json
import math

import pytest
import torch
from conftest import ROOT, trace
from pydantic import ValidationError
from torch.optim.lr_scheduler import LambdaLR

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon

LAST_BIT = 1e-15 * 3e-3  # of the largest lr: near a cosine's end the last bit of another machine's libm shows
GOLDEN = json.loads((ROOT / "tests" / "golden" / "diffusers.json").read_text())


def parameter():
    return torch.nn.Parameter(torch.zeros(2))


def ours(schedule, lr, horizon=None):
    return OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=lr, schedule=schedule).build([parameter()], horizon=horizon)


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda golden: "-".join(map(str, golden["case"].values())))
def test_equals_diffusers(golden):
    fields = {name: value for name, value in golden["case"].items() if name != "name"}
    optimizer = ours({"type": golden["case"]["name"], **fields}, GOLDEN["lr"])
    assert trace(optimizer, 300) == pytest.approx(golden["trace"], rel=1e-12, abs=LAST_BIT)


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda golden: "-".join(map(str, golden["case"].values())))
def test_equals_diffusers_by_lerobots_key(golden):
    case = dict(golden["case"])
    if case["name"] == "piecewise_constant":
        return  # LeRobot's key cannot give its step_rules
    length = case.pop("num_training_steps", 300)
    optimizer = ours({"type": "diffuser", **case}, GOLDEN["lr"], Horizon(length))
    assert trace(optimizer, 300) == pytest.approx(golden["trace"], rel=1e-12, abs=LAST_BIT)


def vqbet(warmup, vqvae, cycles, training):
    """LeRobot's formula, written from its source (lerobot/optim/schedulers.py)."""

    def factor(k):
        if k < vqvae:
            return 1.0
        k -= vqvae
        if k < warmup:
            return k / max(1, warmup)
        return max(0.0, (1 + math.cos(math.pi * cycles * 2 * (k - warmup) / max(1, training - warmup))) / 2)

    return factor


def warmed_cosine(warmup, training):
    def factor(k):
        if k < warmup:
            return k / max(1, warmup)
        return max(0.0, (1 + math.cos(math.pi * (k - warmup) / max(1, training - warmup))) / 2)

    return factor


LEROBOT = [
    ({"type": "vqbet", "num_warmup_steps": 30, "num_vqvae_training_steps": 50}, vqbet(30, 50, 0.5, 300)),
    ({"type": "vqbet", "num_warmup_steps": 0, "num_vqvae_training_steps": 0, "num_cycles": 1.5}, vqbet(0, 0, 1.5, 300)),
    ({"type": "cosine_annealing_with_warmup", "num_warmup_steps": 30}, warmed_cosine(30, 300)),
    ({"type": "cosine_annealing_with_warmup", "num_warmup_steps": 0}, warmed_cosine(0, 300)),
    ({"type": "constant_with_warmup"}, lambda k: min(1.0, k / 1000)),
]


@pytest.mark.parametrize(("schedule", "factor"), LEROBOT)
def test_equals_lerobot_in_the_two_object_pattern(schedule, factor):
    theirs = torch.optim.AdamW([parameter()], lr=2e-3)
    scheduler = LambdaLR(theirs, factor)
    optimizer = ours(schedule, 2e-3, Horizon(300))
    for _ in range(300):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12, abs=0)
        optimizer.step()
        theirs.step()
        scheduler.step()


def test_vqbet_ends_above_zero_as_lerobots_does():
    curve = SCHEDULE_REGISTRY["vqbet"](num_warmup_steps=500, num_vqvae_training_steps=20_000).resolved(Horizon(250_000))
    assert curve.lr_at(250_000) == pytest.approx(0.0158, abs=1e-4)


def test_a_cosine_holds_its_end_where_diffusers_rises_again():
    curve = SCHEDULE_REGISTRY["cosine"](num_warmup_steps=3, num_training_steps=20)
    assert [curve.lr_at(k) for k in (20, 25, 10**9)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("key", ["linear", "cosine", "cosine_with_restarts", "polynomial", "vqbet", "diffuser"])
def test_the_length_of_the_run_is_asked_for(key):
    required = {"num_warmup_steps": 1, "num_vqvae_training_steps": 1} if key == "vqbet" else {}
    with pytest.raises(ValidationError, match="num_training_steps"):
        ours({"type": key, **required}, 1e-3)


@pytest.mark.parametrize(
    "rules", ["1:10,0.1:20", "soon", "1:20,0.1:10,0.5", "1:10,0.1:10,0.5", "1;10,2", "", "-1:10,1", "1:10,-1"]
)
def test_malformed_rules_are_refused(rules):
    with pytest.raises(ValidationError, match="step_rules"):
        SCHEDULE_REGISTRY["piecewise_constant"](step_rules=rules)


def test_a_polynomial_must_fall():
    with pytest.raises(ValidationError, match="must be < the optimizer's lr; got 0"):
        ours({"type": "polynomial", "lr_end": 1e-2}, 1e-3, Horizon(10))


@pytest.mark.parametrize("key", ["linear", "cosine", "polynomial", "diffuser", "constant_with_warmup"])
def test_groups_keep_their_ratio(key):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, schedule={"type": key, "num_warmup_steps": 3})
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 1e-3}]
    optimizer = factory.build(groups, horizon=Horizon(12))
    for _ in range(15):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10, rel=1e-12)
        optimizer.step()
