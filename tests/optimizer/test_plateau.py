"""Schedules that a metric moves, against PyTorch's ReduceLROnPlateau in the two-object pattern."""

import copy
import math
import pickle

import pytest
import torch
from pydantic import ValidationError
from torch.optim.lr_scheduler import ReduceLROnPlateau

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

METRICS = [1.0 / (1.0 + k / 20) + 0.05 * math.sin(k) + (0.5 if 120 < k < 200 else 0.0) for k in range(300)]
OPTIONS = [
    {},
    {"patience": 3, "factor": 0.5},
    {"mode": "max", "patience": 2, "threshold": 0.01, "threshold_mode": "abs"},
    {"patience": 0, "cooldown": 4, "min_lr": 1e-4, "eps": 1e-5},
]


def parameter():
    return torch.nn.Parameter(torch.zeros(2))


def built(schedule=None, key="adamw", horizon=None, **params):
    schedule = {"type": "ReduceLROnPlateau", **(schedule or {})}
    return OPTIMIZER_BUILDER_REGISTRY[key](schedule=schedule, **params).build([parameter()], horizon=horizon)


def lr(optimizer):
    return optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("every", [1, 7])
def test_the_trace_is_that_of_the_two_object_pattern(options, every):
    ours, theirs = built(options, lr=3e-3), torch.optim.AdamW([parameter()], lr=3e-3)
    scheduler = ReduceLROnPlateau(theirs, **options)
    for k, metric in enumerate(METRICS):
        assert lr(ours) == lr(theirs)
        ours.step()
        theirs.step()
        if k % every == 0:
            ours.report_metric("val_loss", metric)
            scheduler.step(metric)
    assert lr(ours) < 3e-3


def test_other_metrics_move_nothing():
    optimizer = built({"patience": 0})
    for k in range(5):
        optimizer.report_metric("val_accuracy", float(k))
        optimizer.report_metric("train_loss", float(k))
    assert lr(optimizer) == 1e-3
    assert optimizer.scheduler.monitors == {"val_loss"}


def test_a_report_takes_tensors_and_holds_from_the_next_update():
    optimizer = built({"patience": 0, "monitor": "val_accuracy", "mode": "max"})
    optimizer.report_metric("val_accuracy", torch.tensor(0.5))
    optimizer.report_metric("val_accuracy", torch.tensor(0.4))
    assert lr(optimizer) == optimizer.scheduler.get_last_lr()[0] == pytest.approx(1e-4)
    optimizer.step()
    assert lr(optimizer) == pytest.approx(1e-4)


def test_a_pure_schedule_takes_reports_and_is_not_moved():
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"]().build([parameter()])
    optimizer.param_groups[0]["lr"] = 0.5  # by hand, for one update
    optimizer.report_metric("val_loss", 1.0)
    assert lr(optimizer) == 0.5


WAYS = [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), "state_dict"]
KINDS = [
    {"patience": 2, "factor": 0.7, "cooldown": 2},
    {"type": "greedy", "patience": 1, "min_lr": 1e-5, "max_lr": 1e-2, "smooth": True, "window_size": 4, "warmup": 2},
    {
        "type": "chain",
        "schedules": [{"type": "constant_with_warmup", "num_warmup_steps": 20}, {"type": "plateau", "patience": 2}],
    },
    {"type": "sequence", "schedules": [{"type": "linear"}, {"type": "plateau", "patience": 2}], "milestones": [5]},
    {"patience": 1, "interval": "epoch"},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("done", [0, 1, 40])
def test_goes_on_from_any_moment(schedule, way, done):
    optimizer = built(schedule, horizon=Horizon(300, 4))
    for metric in METRICS[:done]:
        optimizer.step()
        optimizer.report_metric("val_loss", metric)
    if way == "state_dict":
        other = built(schedule, horizon=Horizon(300, 4))
        other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    else:
        other = way(optimizer)
    for metric in METRICS[done:]:
        assert lr(other) == lr(optimizer)
        assert other.state_dict()["scheduler"] == optimizer.state_dict()["scheduler"]
        for one in (optimizer, other):
            one.step()
            one.report_metric("val_loss", metric)
    assert len({lr(optimizer), 1e-3}) == 2


def test_with_an_interval_the_first_report_of_each_epoch_counts():
    ours, theirs = (
        built({"patience": 1, "interval": "epoch"}, horizon=Horizon(300, 4)),
        torch.optim.AdamW([parameter()]),
    )
    scheduler = ReduceLROnPlateau(theirs, patience=1)
    for k, metric in enumerate(METRICS):
        assert lr(ours) == lr(theirs)
        if k % 4 == 0:
            scheduler.step(metric)
        ours.report_metric("val_loss", metric)
        ours.step()


def test_a_warmup_and_a_plateau_in_a_chain():
    parts = [{"type": "constant_with_warmup", "num_warmup_steps": 4}, {"type": "plateau", "patience": 0, "factor": 0.5}]
    optimizer = built({"type": "chain", "schedules": parts}, lr=1.0)
    lrs = []
    for _ in range(6):
        lrs.append(lr(optimizer))
        optimizer.step()
    optimizer.report_metric("val_loss", 1.0)
    optimizer.report_metric("val_loss", 2.0)
    assert [*lrs, lr(optimizer)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.5]


def test_groups_keep_their_ratio():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, schedule={"type": "plateau", "patience": 0})
    optimizer = factory.build([{"params": [parameter()]}, {"params": [parameter()], "lr": 1e-3}])
    for metric in METRICS[:40]:
        optimizer.report_metric("val_loss", metric)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(first / 10)
    assert first < 1e-2


def test_a_state_without_the_metrics_so_far_is_said_to_be_one():
    optimizer = built()
    state = optimizer.state_dict()
    del state["scheduler"]["curves"]
    with pytest.warns(UserWarning, match="metrics so far: they start from scratch"):
        built().load_state_dict(state)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"factor": 1.0}, "factor"),
        ({"patience": -1}, "patience"),
        ({"mode": "low"}, "'min' or 'max'"),
        ({"threshold_mode": "relative"}, "'rel' or 'abs'"),
        ({"patients": 3}, "did you mean 'patience'"),
        ({"type": "greedy", "min_lr": 2.0, "max_lr": 1.0}, "must be <= max_lr"),
    ],
)
def test_impossible_values_are_refused(schedule, message):
    with pytest.raises(ValidationError, match=message):
        built(schedule)
