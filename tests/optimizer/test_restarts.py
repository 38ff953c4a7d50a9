"""A restart is where exact arithmetic puts it, at full height, whatever floating point makes of the quotient."""

import math
from fractions import Fraction

import pytest
import torch

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon


@pytest.mark.parametrize("warmup", [0, 17])
@pytest.mark.parametrize("rest", [1, 7, 60, 97, 660, 1001])
def test_cosine_with_restarts_follows_exact_arithmetic(warmup, rest):
    for cycles in (1, 2, 3, 11, 22, 29, 49, 60, 98):
        fields = {"num_cycles": cycles, "num_warmup_steps": warmup, "num_training_steps": warmup + rest}
        curve = SCHEDULE_REGISTRY["cosine_with_restarts"](**fields)
        for since in range(rest):
            progress = Fraction(cycles * since, rest) % 1
            value = curve.lr_at(warmup + since)
            assert value == pytest.approx(0.5 * (1.0 + math.cos(math.pi * progress)), abs=1e-12)
            assert (value == 1.0) == (progress < Fraction(1, 10**8))
        assert curve.lr_at(warmup + rest) == 0.0


@pytest.mark.parametrize("t_mul", ["1", "1.0001", "1.01", "1.1", "1.25", "1.3", "1.5", "2", "2.5", "3", "10"])
@pytest.mark.parametrize("first", [1, 3, 10, 1000, 10_000])
def test_cosine_decay_restarts_follows_exact_arithmetic(t_mul, first):
    curve = SCHEDULE_REGISTRY["cosine_decay_restarts"](first_decay_steps=first, t_mul=float(t_mul), num_warmup_steps=5)
    begun, length = Fraction(0), Fraction(first)
    for _ in range(40):
        if begun > 10**9:
            break
        for since in (math.ceil(begun), math.ceil(begun + length) - 1):
            if begun <= since < begun + length:
                expected = 0.5 * (1.0 + math.cos(math.pi * (since - begun) / length))
                assert curve.lr_at(5 + since) == pytest.approx(expected, abs=1e-7), since
        if begun.denominator == 1:
            assert curve.lr_at(5 + int(begun)) == 1.0, begun
        begun, length = begun + length, length * Fraction(t_mul)


def test_heights_and_the_limit_count_the_same_cosines():
    curve = SCHEDULE_REGISTRY["cosine_decay_restarts"](first_decay_steps=1000, t_mul=1.1, m_mul=0.5, cycle_limit=3)
    assert [curve.lr_at(update) for update in (0, 1000, 2100, 3310)] == [1.0, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(("t_0", "t_mult"), [(1, 1), (7, 1), (1, 2), (3, 2), (5, 3)])
def test_pytorchs_warm_restarts_are_at_full_height(t_0, t_mult):
    curve = SCHEDULE_REGISTRY["CosineAnnealingWarmRestarts"](T_0=t_0, T_mult=t_mult, initial_lr=0.7)
    begun, length = 0, t_0
    while begun < 500:
        assert curve.lr_at(begun) == 0.7
        begun, length = begun + length, length * t_mult


@pytest.mark.parametrize(("up", "down"), [(7, 3), (49, 49), (1, 9)])
def test_pytorchs_cycles_begin_at_the_bottom(up, down):
    curve = SCHEDULE_REGISTRY["CyclicLR"](base_lr=0.1, max_lr=0.9, step_size_up=up, step_size_down=down)
    assert all(curve.lr_at(cycle * (up + down)) == 0.1 for cycle in (1, 22, 49, 98, 10_007, 10**6 + 3))


@pytest.mark.parametrize(
    "named", [{"type": "cosine_with_restarts"}, {"type": "diffuser", "name": "cosine_with_restarts"}]
)
def test_a_restart_is_an_update_of_the_optimizer(named):
    schedule = {**named, "num_cycles": 22}
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.5, schedule=schedule).build(
        [torch.nn.Parameter(torch.zeros(1))], horizon=Horizon(22 * 5)
    )
    lrs = []
    for _ in range(22 * 5):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert lrs[::5] == [0.5] * 22
