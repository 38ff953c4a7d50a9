"""Curves are asked by several threads: whatever another one asks in between, each gets its own answer."""

import inspect
import sys

import pytest
import torch
from sample_schedules import SCHEDULES

import optimizer
from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon

HERE = inspect.getfile(optimizer).removesuffix("__init__.py")


def interrupted(ask, other):
    """Return what `ask` gives when `other` runs, as another thread would, before each line of this library."""
    inside = False

    def trace(frame, event, argument):
        nonlocal inside
        if inside or not frame.f_code.co_filename.startswith(HERE):
            return None
        inside = True
        try:
            other()
        finally:
            inside = False
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return ask()
    finally:
        sys.settrace(before)


def followed(key):
    """Return two curves, as two optimizers of one factory have them."""
    schedule = SCHEDULE_REGISTRY[key](**SCHEDULES[key]).resolved(Horizon(30, 10))
    return schedule.bind(0.5), schedule.bind(0.5)


@pytest.mark.parametrize("key", SCHEDULES)
def test_two_optimizers_curves_do_not_meet(key):
    quiet, one, other = followed(key)[0], *followed(key)
    for update in (0, 4, 11, 19, 29, 7):
        expected = quiet.lr_at(update), quiet.momentum_at(update)
        for elsewhere in (0, 13, 28):
            disturb = lambda at=elsewhere: (other.lr_at(at), other.momentum_at(at))  # noqa: E731
            assert interrupted(lambda at=update: (one.lr_at(at), one.momentum_at(at)), disturb) == expected


@pytest.mark.parametrize("key", SCHEDULES)
def test_a_schedule_itself_can_be_asked_by_anyone(key):
    schedule = SCHEDULE_REGISTRY[key](**SCHEDULES[key]).resolved(Horizon(30, 10)).bind(0.5).schedule
    if schedule.bind().monitors():
        return  # its curve is moved by metrics, one an optimizer
    for update in (0, 11, 29):
        expected = schedule.new_curve().lr_at(update)
        assert interrupted(lambda at=update: schedule.lr_at(at), lambda: schedule.lr_at(13)) == expected


def test_optimizers_with_equal_curves_step_on_their_own():
    def make():
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw_cosine_schedule"](max_lr=1e-2, total_steps=40, cycle_momentum=True)
        return factory.build([torch.nn.Parameter(torch.zeros(1))])

    alone, one, other = make(), make(), make()
    for _ in range(40):
        alone.step()
        interrupted(one.step, other.step)
        groups = [optimizer.param_groups[0] for optimizer in (alone, one)]
        assert groups[0]["lr"] == groups[1]["lr"]
        assert groups[0]["betas"] == groups[1]["betas"]
