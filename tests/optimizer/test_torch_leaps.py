"""A scheduler of PyTorch's at a late position without its steps: the very bits that its steps give."""

import random
import warnings

import pytest
import torch
from sample_torch_schedules import CASES, flat, of_torch, parameter

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon
from optimizer.schedules import torch_leaps
from optimizer.schedules.torch_leaps import CosineAnnealingThenHold
from optimizer.schedules.torch_schedule import TorchCurve

MORE = [
    (
        "SequentialLR",
        {
            "schedulers": [
                ("LambdaLR", {"lr_lambda": "sample_functions.falling"}),
                ("MultiplicativeLR", {"lr_lambda": "sample_functions.shrinking"}),
                ("CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2}),
                ("SWALR", {"swa_lr": 1e-2, "anneal_epochs": 30}),
                ("PolynomialLR", {"total_iters": 40}),
                ("CyclicLR", {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 9}),
            ],
            "milestones": [20, 50, 90, 150, 200],
        },
    ),
    (
        "ChainedScheduler",
        {
            "schedulers": [
                ("StepLR", {"step_size": 7}),
                ("LambdaLR", {"lr_lambda": "sample_functions.falling"}),
                ("LinearLR", {"total_iters": 40}),
                ("ExponentialLR", {"gamma": 0.9}),
            ]
        },
    ),
    (
        "ChainedScheduler",
        {
            "schedulers": [
                ("StepLR", {"step_size": 7}),
                ("ChainedScheduler", {"schedulers": [("LinearLR", {"total_iters": 40}), ("PolynomialLR", {})]}),
                ("MultiplicativeLR", {"lr_lambda": "sample_functions.shrinking"}),
                ("MultiStepLR", {"milestones": [5, 5, 80]}),
            ]
        },
    ),
    ("CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3}),
    ("StepLR", {"step_size": 1, "gamma": 1.01}),
]


@pytest.mark.parametrize(("name", "options"), CASES + MORE)
def test_every_leap_lands_where_the_steps_do(name, options, monkeypatch):
    stand_in = torch.optim.Adam([parameter()], lr=3e-3)
    scheduler = of_torch(name, options, stand_in)
    stand_in.step()
    walked = []
    for _ in range(280):
        walked.append((stand_in.param_groups[0]["lr"], stand_in.param_groups[0]["betas"][0]))
        scheduler.step()
    schedule = SCHEDULE_REGISTRY[name](initial_lr=3e-3, **flat(options))
    places = random.Random(0)
    for update in range(0, 280, 3):
        run = TorchCurve(schedule)
        first = places.randrange(update + 1)
        for at in (first, update, min(279, update + 1)):  # there in two leaps, and on by a step
            assert run.lr_at(at) == walked[at][0]
            assert run.momentum_at(at) in (None, walked[at][1])


@pytest.mark.parametrize(("name", "options"), CASES + MORE)
def test_a_leap_takes_hardly_a_step(name, options, monkeypatch):
    taken = []
    real = torch.optim.lr_scheduler.LRScheduler.step
    monkeypatch.setattr(
        torch.optim.lr_scheduler.LRScheduler, "step", lambda self, *args: taken.append(real(self, *args))
    )
    TorchCurve(SCHEDULE_REGISTRY[name](initial_lr=3e-3, **flat(options))).lr_at(2000)
    assert len(taken) < 120  # SWALR's own annealing, at most


def test_a_cosine_of_any_length_leaps():
    run = TorchCurve(SCHEDULE_REGISTRY["CosineAnnealingLR"](T_max=400, eta_min=1e-5, initial_lr=0.1))
    stand_in = torch.optim.SGD([parameter()], lr=0.1)
    scheduler = CosineAnnealingThenHold(stand_in, T_max=400, eta_min=1e-5)
    stand_in.step()
    for update in range(500):
        if update % 50 == 49:
            assert run.lr_at(update) == stand_in.param_groups[0]["lr"]
        scheduler.step()


def test_a_late_position_is_loaded_at_once():
    factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.1, schedule={"type": "StepLR", "step_size": 10**8})
    optimizer = factory.build([parameter()], horizon=Horizon(10**9))
    optimizer.load_state_dict({**optimizer.state_dict(), "scheduler": {"last_epoch": 10**9 - 1}})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-10)


@pytest.mark.parametrize(
    ("schedule", "limit", "message"),
    [
        (
            {"type": "sample_schedulers.Halving", "every": 50},
            "torch_schedule.SLOW_STEPS",
            "Halving is stepped 300 times to update 300",
        ),
        ({"type": "ExponentialLR", "gamma": 0.9}, "torch_leaps.SLOW_CHANGES", "ExponentialLR: 300 changes of the lr"),
    ],
)
def test_a_long_way_is_announced(schedule, limit, message, monkeypatch):
    monkeypatch.setattr(f"optimizer.schedules.{limit}", 200)
    run = TorchCurve(SCHEDULE_REGISTRY[schedule.pop("type")](**schedule, initial_lr=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.lr_at(200)
    with pytest.warns(UserWarning, match=message):
        TorchCurve(run._schedule).lr_at(300)


def test_what_is_of_another_library_is_stepped():
    run = TorchCurve(SCHEDULE_REGISTRY["sample_schedulers.Halving"](every=50, initial_lr=0.1))
    assert not torch_leaps.can_leap(run._scheduler)
    assert run.lr_at(120) == 0.1 / 4


def test_a_chain_with_one_of_another_library_is_stepped():
    parts = [{"type": "StepLR", "step_size": 100}, {"type": "sample_schedulers.Halving", "every": 50}]
    run = TorchCurve(SCHEDULE_REGISTRY["ChainedScheduler"](schedulers=parts, initial_lr=0.1))
    assert not torch_leaps.can_leap(run._scheduler)
    assert run.lr_at(120) == 0.1 / 4  # Halving, which comes last, goes by the lr at the start
