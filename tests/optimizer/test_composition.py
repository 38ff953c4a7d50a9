"""Schedules one after another, and multiplied."""

import pytest
import torch
from pydantic import ValidationError

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon


def parameter():
    return torch.nn.Parameter(torch.zeros(2))


RUN = Horizon(200, 20)


def built(schedule, key="adamw", horizon=RUN, **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](schedule=schedule, **params).build([parameter()], horizon=horizon)


def trace(optimizer, length, option="lr"):
    values = []
    for _ in range(length):
        values.append(optimizer.param_groups[0][option])
        optimizer.step()
    return values


def curve(key, horizon, lr=1e-2, **fields):
    resolved = SCHEDULE_REGISTRY[key](**fields).resolved(horizon)
    started = resolved.bind(lr)
    return [started.lr_at(k) * (1 if resolved.absolute else lr) for k in range(horizon.total_steps + 20)]


def test_each_part_counts_from_where_it_begins_and_has_its_own_length():
    parts = [{"type": "linear"}, {"type": "one_cycle", "max_lr": 3e-2}, {"type": "StepLR", "step_size": "10%"}]
    lrs = trace(built({"type": "sequence", "schedules": parts, "milestones": ["25%", 120]}, lr=1e-2), 220)
    assert lrs[:50] == curve("linear", Horizon(50))[:50]
    assert lrs[50:120] == curve("one_cycle", Horizon(70), max_lr=3e-2)[:70]
    assert lrs[120:] == curve("StepLR", Horizon(80), step_size=8)[:100]


def test_equals_pytorchs_sequential():
    parts = [{"type": "LinearLR", "total_iters": 20}, {"type": "CosineAnnealingLR", "T_max": 180}]
    ours = trace(built({"type": "sequence", "schedules": parts, "milestones": [20]}), 250)
    theirs = trace(built({"type": "SequentialLR", "schedulers": parts, "milestones": [20]}), 250)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-18)


def test_a_chain_is_the_product():
    parts = [
        {"type": "constant_with_warmup", "num_warmup_steps": 20},
        {"type": "StepLR", "step_size": 50},
        {"type": "rex"},
    ]
    lrs = trace(built({"type": "chain", "schedules": parts}, lr=1e-2), 200)
    alone = [curve(part["type"], Horizon(200), **{k: v for k, v in part.items() if k != "type"}) for part in parts]
    product = [a * b * c / 1e-4 for a, b, c in zip(*alone, strict=True)]
    assert lrs == pytest.approx(product[:200], rel=1e-12)


def test_compositions_nest():
    inner = {"type": "chain", "schedules": [{"type": "linear"}, {"type": "StepLR", "step_size": "50%"}]}
    lrs = trace(
        built({"type": "sequence", "schedules": [{"type": "constant"}, inner], "milestones": [100]}, lr=1.0), 200
    )
    expected = [1.0] * 100 + [(1 - k / 100) * (0.1 if k >= 50 else 1.0) for k in range(100)]
    assert lrs == pytest.approx(expected, rel=1e-12)


def test_a_part_may_move_by_epochs():
    parts = [
        {"type": "constant_with_warmup", "num_warmup_steps": 30},
        {"type": "StepLR", "step_size": 1, "interval": "epoch"},
    ]
    lrs = trace(built({"type": "sequence", "schedules": parts, "milestones": [30]}, lr=1.0), 90)
    assert lrs[30:] == pytest.approx([1.0] * 20 + [0.1] * 20 + [0.01] * 20)


def test_momentum_stays_where_the_last_part_left_it():
    cycle = {"type": "one_cycle", "max_lr": 1e-2, "total_steps": 40}
    optimizer = built(
        {"type": "sequence", "schedules": [{"type": "constant"}, cycle, {"type": "linear"}], "milestones": [10, 60]}
    )
    betas = [beta for beta, _ in trace(optimizer, 100, "betas")]
    assert betas[:10] == [0.9] * 10
    assert min(betas[10:60]) == pytest.approx(0.85)
    assert betas[60:] == [betas[59]] * 40
    resumed = built(
        {"type": "sequence", "schedules": [{"type": "constant"}, cycle, {"type": "linear"}], "milestones": [10, 60]}
    )
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"type": "sequence", "schedules": [], "milestones": []}, "at least 1 item"),
        (
            {"type": "sequence", "schedules": [{"type": "constant"}], "milestones": [5]},
            "one less than the schedules; got 1",
        ),
        (
            {"type": "sequence", "schedules": [{"type": "constant"}] * 3, "milestones": [9, 5]},
            r"must rise; got \[9, 5\]",
        ),
        ({"type": "sequence", "schedules": [{"type": "constnat"}], "milestones": []}, "did you mean 'constant'"),
        (
            {"type": "sequence", "schedules": [{"type": "constant"}], "milestones": [], "interval": "epoch"},
            "schedules inside",
        ),
        (
            {"type": "chain", "schedules": [{"type": "one_cycle", "max_lr": 1, "total_steps": 9}] * 2},
            "only one of them may",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(schedule, message):
    with pytest.raises(ValidationError, match=message):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule=schedule)


def test_a_milestone_beyond_the_run_is_refused_when_built():
    schedule = {"type": "sequence", "schedules": [{"type": "constant"}] * 2, "milestones": [300]}
    with pytest.raises(ValidationError, match=r"must rise and lie within the run; got \[300\] in a run of 200"):
        built(schedule)


def test_an_error_inside_names_the_part():
    schedule = {"type": "sequence", "schedules": [{"type": "constant"}, {"type": "cosine"}], "milestones": [30]}
    with pytest.raises(ValidationError, match=r"schedule.schedules.1.num_training_steps"):
        built(schedule, horizon=None)
