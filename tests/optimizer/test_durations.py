"""Lengths in epochs and shares, and schedules whose steps are longer than an update."""

import pytest
import torch
from conftest import trace
from pydantic import ValidationError
from torch.optim import lr_scheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon

HORIZON = Horizon(total_steps=1000, steps_per_epoch=40)


def parameter():
    return torch.nn.Parameter(torch.zeros(2))


def built(schedule, horizon=HORIZON, **params):
    return OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule=schedule, **params).build([parameter()], horizon=horizon)


@pytest.mark.parametrize(
    ("length", "updates"), [("5%", 50), ("2ep", 80), ("1.5ep", 60), ("0.1%", 1), ("7", 7), (7, 7), ("0%", 0)]
)
@pytest.mark.parametrize("key", ["adamw_warmup_cosine_decay", "adamw"])
def test_a_length_in_epochs_or_per_cent(key, length, updates):
    curve = {"peak_lr": 1e-3, "warmup_steps": length}
    factory = OPTIMIZER_BUILDER_REGISTRY[key](
        **(curve if key != "adamw" else {"schedule": {"type": "warmup_cosine_decay", **curve}})
    )
    resolved = factory.resolved(HORIZON).curve
    assert (resolved.warmup_steps, resolved.total_steps) == (updates, 1000)
    assert type(factory)(**factory.model_dump(mode="json")) == factory  # as it was written


@pytest.mark.parametrize("field", ["T_max", "step_size", "T_0", "total_iters"])
def test_lengths_of_pytorchs_schedulers_too(field):
    key = {"T_max": "CosineAnnealingLR", "step_size": "StepLR", "T_0": "CosineAnnealingWarmRestarts"}.get(
        field, "LinearLR"
    )
    assert getattr(SCHEDULE_REGISTRY[key](**{field: "3ep"}).resolved(HORIZON), field) == 120
    milestones = SCHEDULE_REGISTRY["MultiStepLR"](milestones=["10%", "5ep", 900]).resolved(HORIZON).milestones
    assert milestones == [100, 200, 900]


@pytest.mark.parametrize("total_steps", [None, "auto", "100%", "25ep"])
def test_the_length_of_the_run_by_any_name(total_steps):
    schedule = SCHEDULE_REGISTRY["one_cycle"](max_lr=1e-2, total_steps=total_steps)
    assert schedule.resolved(HORIZON).total_steps == 1000


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("5 percent", 'epochs as in "10ep", or a share as in "5%"'),
        ("-3ep", "epochs as in"),
        ("", "epochs as in"),
        ("150%", "at most the whole run"),
        (-1, "greater than or equal to 0"),
        (2.5, "a whole number"),
        (True, "not true or false"),
    ],
)
def test_a_malformed_length_is_refused(length, message):
    with pytest.raises(ValidationError, match=message) as refused:
        OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](peak_lr=1e-3, warmup_steps=length)
    assert refused.value.errors()[0]["loc"] == ("warmup_steps",)


def test_what_a_length_refers_to_is_asked_for():
    schedule = {"type": "cosine", "num_warmup_steps": "2ep"}
    with pytest.raises(ValidationError, match=r"schedule.num_warmup_steps(.|\n)*2ep needs the length of the run"):
        built(schedule, horizon=None)
    with pytest.raises(ValidationError, match="steps_per_epoch"):
        built(schedule, horizon=Horizon(100))


def test_relative_lengths_are_checked_once_they_are_known():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](peak_lr=1e-3, warmup_steps="30ep")
    with pytest.raises(ValidationError, match=r"must be < total_steps; got 1200 with total_steps 1000"):
        factory.resolved(HORIZON)


@pytest.mark.parametrize(("interval", "frequency", "pace"), [("epoch", 1, 40), ("epoch", 2, 80), ("step", 7, 7)])
def test_a_schedule_moves_by_epochs_or_every_few_updates(interval, frequency, pace):
    optimizer = built({"type": "StepLR", "step_size": 3, "interval": interval, "frequency": frequency}, lr=1.0)
    theirs = torch.optim.SGD([parameter()], lr=1.0)
    scheduler = lr_scheduler.StepLR(theirs, step_size=3)
    for update in range(500):
        assert optimizer.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        optimizer.step()
        theirs.step()
        if (update + 1) % pace == 0:  # Lightning's rule for interval and frequency
            scheduler.step()


def test_by_epochs_lengths_are_counted_in_epochs():
    schedule = SCHEDULE_REGISTRY["cosine"](num_warmup_steps="20%", interval="epoch").resolved(HORIZON)
    assert (schedule.num_warmup_steps, schedule.num_training_steps, schedule.steps_per_epoch) == (5, 25, 40)
    assert SCHEDULE_REGISTRY["StepLR"](step_size="3ep", interval="epoch").resolved(HORIZON).step_size == 3
    begun = SCHEDULE_REGISTRY["cosine"](interval="epoch").resolved(Horizon(105, 10))
    assert begun.num_training_steps == 11  # an epoch that is begun counts
    lrs = trace(built({"type": "cosine", "interval": "epoch"}, lr=1.0), 1100)
    assert len(set(lrs[:1000])) == 25
    assert lrs[1000:] == [0.0] * 100
    assert all(len(set(lrs[start : start + 40])) == 1 for start in range(0, 1000, 40))


def test_by_epochs_the_length_of_an_epoch_is_asked_for():
    with pytest.raises(ValidationError, match="interval: epoch needs it"):
        built({"type": "StepLR", "step_size": 3, "interval": "epoch"}, horizon=Horizon(100))
    given = built({"type": "StepLR", "step_size": 1, "interval": "epoch", "steps_per_epoch": 5}, horizon=None, lr=1.0)
    assert trace(given, 6)[4:] == [1.0, 0.1]


def test_the_position_stays_that_of_updates():
    schedule = {"type": "StepLR", "step_size": 1, "interval": "epoch"}
    optimizer = built(schedule, lr=1.0)
    trace(optimizer, 45)
    assert optimizer.scheduler.last_epoch == 45
    again = built(schedule, lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    assert trace(again, 80) == trace(optimizer, 80)
