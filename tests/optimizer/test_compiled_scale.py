"""Gradients that compiled steps scale as they read them, and the norm in C that such a scale comes from."""

import math

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import native
from optimizer.transforms.float64_step import HALVES

pytestmark = NO_COMPILER

SHAPES = [(3,), (70_001,), (300, 50), (0,), ()]

STEPS = {
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "adam with a penalty, upward": ("adam", {"weight_decay": 0.1, "maximize": True}),
    "cautious": ("adamw", {"use_cautious_optimizer": True}),
    "cautious with a penalty, upward": (
        "adam",
        {"use_cautious_optimizer": True, "weight_decay": 0.1, "maximize": True},
    ),
    "sgd": ("sgd", {"use_cautious_optimizer": True, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov, upward": ("sgd", {"use_cautious_optimizer": True, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "schedule-free": ("schedule_free_radam", {"weight_decay": 0.1}),
}


def everything(optimizer):
    """Return all that a step moves, as one list of tensors."""
    parameters = optimizer.param_groups[0]["params"]
    states = [optimizer.state[p].items() for p in parameters]
    return [p.detach() for p in parameters] + [value for state in states for name, value in sorted(state)]


def gradients_at(update):
    generator = torch.Generator().manual_seed(update)
    return [torch.randn(shape, generator=generator) * 10.0 ** (-2 * update) for shape in SHAPES]


def stepped(name, dtype, scales, in_place, odd=()):
    """Return an optimizer after steps with these scales of the gradients: before the step, or in it."""
    key, params = STEPS[name]
    generator = torch.Generator().manual_seed(7)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, implementation="compiled", grad_clip_norm=None, **params)
    optimizer = factory.build(parameters)
    for update, scale in enumerate(scales):
        for p, gradient in zip(parameters, gradients_at(update), strict=True):
            p.grad = gradient.to(dtype)
        parameters[1].grad[: len(odd)] = torch.tensor(odd, dtype=dtype)
        if scale is not None and in_place:
            torch._foreach_mul_([p.grad for p in parameters], torch.tensor(scale, dtype=dtype))
        elif scale is not None:
            optimizer.gradient_scale = torch.tensor(scale, dtype=dtype)
        optimizer.step()
        optimizer.gradient_scale = None
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_scales_gradients_equals_one_after_scaling_to_the_bit(name, dtype):
    if name == "schedule-free" and dtype in HALVES:
        pytest.skip("schedule-free steps in half precision are not compiled")
    scales = [0.3, None, 1.0, 0.7123, *[0.0123] * 5]  # schedule-free RAdam divides from its sixth step on
    optimizers = [stepped(name, dtype, scales, in_place) for in_place in (True, False)]
    assert all(map(torch.equal, *map(everything, optimizers)))
    assert not all(map(torch.equal, *map(everything, (optimizers[0], stepped(name, dtype, [None] * 9, False)))))


@pytest.mark.parametrize("name", STEPS)
def test_scaled_gradients_without_a_finite_value_or_a_normal_one_are_as_scaled_ones(name):
    odd = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-39, 3e38]
    for scale in (1e-3, 0.0, math.nan):
        pair = [everything(stepped(name, torch.float32, [scale] * 2, in_place, odd)) for in_place in (True, False)]
        for one, other in zip(*pair, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_scale_leaves_the_gradients_as_they_are():
    optimizer = stepped("adamw", torch.float32, [0.5], in_place=False)
    for p, gradient in zip(optimizer.param_groups[0]["params"], gradients_at(0), strict=True):
        assert torch.equal(p.grad, gradient)


def sample(dtype):
    """Return tensors of several blocks, of none, with gaps, turned around, expanded, and not on a cache line."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(100_003, generator=generator).to(dtype)
    matrix = torch.randn(60, 40, generator=generator).to(dtype)
    return [whole, whole[1:], whole[:0], matrix.t(), matrix[:, ::3], matrix[0].expand(50, 40), matrix[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_squares_are_those_in_float64_for_any_number_of_threads(dtype):
    tensors, threads, found = sample(dtype), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append([*native.squares(tensors)])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == pytest.approx([x.double().square().sum().item() for x in tensors], rel=1e-13, abs=0)
    assert found[0] == found[1] == found[2]
    assert native.squares([]) == []


def test_squares_are_not_finite_where_gradients_are_not():
    gradients = [torch.ones(40_000) for _ in range(3)]
    gradients[0][30_000], gradients[1][39_999] = math.nan, -math.inf
    assert [*native.squares(gradients)] == pytest.approx([math.nan, math.inf, 40_000.0], rel=0, abs=0, nan_ok=True)


def test_squares_of_float32_neither_overflow_nor_vanish():
    found = native.squares([torch.full((4,), 1.5e38), torch.full((4,), 1e-40)])
    assert [*found] == pytest.approx([9e76, 4e-80], rel=1e-4, abs=0)


@pytest.mark.parametrize("other", [torch.ones(3, dtype=torch.float64), torch.ones(3, device="meta")])
def test_squares_of_other_tensors_are_refused_before_memory_is_read(other):
    with pytest.raises(TypeError, match="squares of tensors of several types"):
        native.squares([torch.ones(3), other])
