"""Compiled steps of bfloat16 and float16 parameters: in float32 registers, and rounded once."""

import copy
import math

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, CautiousOptimizer
from optimizer.kernels.registry import implementation_of
from optimizer.transforms.float64_step import HALVES

pytestmark = NO_COMPILER

SHAPES = [(40_001,), (30, 20), (), (0,)]

STEPS = {
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "adam with a penalty, upward": ("adam", {"weight_decay": 0.1, "maximize": True}),
    "cautious": ("adamw", {"weight_decay": 0.1, "use_cautious_optimizer": True}),
    "cautious with a penalty": ("adam", {"weight_decay": 0.1, "use_cautious_optimizer": True}),
    "sgd": ("sgd", {"momentum": 0.9, "weight_decay": 0.1, "use_cautious_optimizer": True}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True, "use_cautious_optimizer": True}),
}
STOCHASTIC = {"stochastic_rounding": True}


def built(parameters, key="adamw", **params):
    options = {"lr": 0.01, "grad_clip_norm": None, "implementation": "compiled", **params}
    return OPTIMIZER_BUILDER_REGISTRY[key](**options).build(parameters)


def random_ones(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def parameters(optimizer):
    return optimizer.param_groups[0]["params"]


def train(optimizer, updates):
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        for p in parameters(optimizer):
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return optimizer


def everything(optimizer):
    states = [optimizer.state[p].items() for p in parameters(optimizer)]
    return [p.detach() for p in parameters(optimizer)] + [value for state in states for _, value in sorted(state)]


def twin_of(optimizer, key, params):
    """Return the class over float64 copies of all tensors, its step taken."""
    copies = [nn.Parameter(p.detach().double()) for p in parameters(optimizer)]
    twin = built(copies, key, **{**params, "implementation": "single"})
    for p, other in zip(parameters(optimizer), copies, strict=True):
        state = optimizer.state.get(p, {}).items()
        twin.state[other] = {k: v.clone() if k == "step" else v.double() for k, v in state}
        other.grad = p.grad.double()
    twin.step()
    return twin


@pytest.mark.parametrize("rounding", [{}, STOCHASTIC])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", STEPS)
def test_each_step_equals_that_in_float64_but_for_one_rounding(name, dtype, rounding):
    if rounding and dtype == torch.float16:
        pytest.skip("float16 is rounded to the nearest")
    key, params = STEPS[name]
    optimizer = built(random_ones(dtype), key, **params, **rounding)
    for update in range(4):
        generator = torch.Generator().manual_seed(update)
        for p in parameters(optimizer):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        twin = twin_of(optimizer, key, params)
        optimizer.step()
        last_bit = torch.finfo(dtype).eps
        for p, other in zip(parameters(optimizer), parameters(twin), strict=True):
            limit = last_bit * (1.01 if rounding else 0.501)
            torch.testing.assert_close(p.double(), other, rtol=limit, atol=2e-7)
            for state, value in optimizer.state[p].items():
                if value.dtype == torch.float32:
                    torch.testing.assert_close(value.double(), twin.state[other][state].double(), rtol=1e-5, atol=1e-6)
                else:
                    torch.testing.assert_close(value.double(), twin.state[other][state], rtol=last_bit, atol=1e-7)
    assert implementation_of(optimizer) == "compiled"


@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_state_has_the_types_of_the_steps_that_are_not_compiled(dtype, caution):
    ours, theirs = (
        train(built(random_ones(dtype), implementation=name, use_cautious_optimizer=caution), range(2))
        for name in ("compiled", "blocks" if caution else "fused")
    )
    assert [x.dtype for x in everything(ours)] == [x.dtype for x in everything(theirs)]
    theirs.load_state_dict(ours.state_dict())
    assert all(map(torch.equal, everything(ours)[len(SHAPES) :], everything(theirs)[len(SHAPES) :]))


def every_number(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_is_read_and_rounded_as_torch_does(dtype):
    numbers = every_number(dtype)
    p = nn.Parameter(numbers.clone())
    optimizer = built([p], weight_decay=0.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), numbers, rtol=0, atol=0, equal_nan=True)
    for lr in (1.0, 0.3, 7e-4, 33.0):
        p = nn.Parameter(torch.zeros_like(numbers))
        optimizer = built([p], "sgd", lr=lr, momentum=0.9, use_cautious_optimizer=True, cautious_min_mean=1.0)
        p.grad = numbers.clone()
        optimizer.step()
        expected = (-(numbers.float() * torch.tensor(lr / (1 + 1e-8)))).to(dtype)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["adamw", "cautious", "sgd"])
def test_small_steps_move_parameters_only_with_stochastic_rounding(name):
    key, params = STEPS[name]
    moved = []
    for rounding in ({}, STOCHASTIC):
        p = nn.Parameter(torch.ones(100_000, dtype=torch.bfloat16))
        options = {**params, "weight_decay": 0.0, "momentum": 0.1} if key == "sgd" else {**params, "weight_decay": 0.0}
        optimizer = built([p], key, lr=1e-4, **options, **rounding)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved.append(p.detach().float())
    assert torch.all(moved[0] == 1.0)
    steps = sum((1 - 0.1**k) / 0.9 for k in range(1, 101)) if key == "sgd" else 100
    assert moved[1].mean().item() == pytest.approx(1.0 - 1e-4 * steps, abs=2e-4)
    assert moved[1].unique().numel() > 5


def test_parameters_moments_and_steps_have_noise_of_their_own():
    first, second = (nn.Parameter(torch.ones(50_000, dtype=torch.bfloat16)) for _ in range(2))
    optimizer = built([first, second], lr=2**-9, weight_decay=0.0, **STOCHASTIC)  # half of the last bit below 1
    ups = []
    for _ in range(2):
        for p in (first, second):
            p.data.fill_(1.0)
            p.grad = torch.ones_like(p)
            optimizer.state.pop(p, None) if not ups else [x.fill_(1.0) for x in list(optimizer.state[p].values())[1:]]
        optimizer.step()
        values = [first, second, *(optimizer.state[p][name] for p in (first, second) for name in ("exp_avg",))]
        ups += [(value.detach().float() < value.detach().float().mean()).float() for value in values]
    ups = [up for up in ups if 0 < up.mean() < 1]
    ups += [ups[0].roll(shift) for shift in (1, 2, 16)]
    assert len(ups) >= 7
    assert torch.corrcoef(torch.stack(ups)).fill_diagonal_(0).abs().max() < 0.025


@pytest.mark.parametrize("rounding", [{}, STOCHASTIC])
@pytest.mark.parametrize("name", ["adamw", "cautious", "nesterov"])
def test_threads_change_nothing_and_a_resumed_run_is_the_whole_one(name, rounding):
    key, params = STEPS[name]
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(everything(train(built(random_ones(torch.bfloat16), key, **params, **rounding), range(6))))
    finally:
        torch.set_num_threads(threads)
    half = train(built(random_ones(torch.bfloat16), key, **params, **rounding), range(3))
    fresh = built(copy.deepcopy(parameters(half)), key, **params, **rounding)
    fresh.load_state_dict(half.state_dict())
    found.append(everything(train(fresh, range(3, 6))))
    assert all(all(map(torch.equal, found[0], other)) for other in found[1:])


def test_what_is_not_finite_stays_so():
    odd = torch.tensor([math.nan, math.inf, -math.inf] * 40, dtype=torch.bfloat16)
    for rounding in ({}, STOCHASTIC):
        p = nn.Parameter(odd.clone())
        optimizer = built([p], weight_decay=0.0, **rounding)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        torch.testing.assert_close(p.detach(), odd, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("key", "params", "dtype", "found"),
    [
        ("adamw", {}, torch.float32, r"a parameter is torch\.float32 on cpu"),
        ("adamw", {}, torch.float16, r"a parameter is torch\.float16 on cpu"),
        ("adamw", {"implementation": "fused"}, torch.bfloat16, "AdamW with implementation: fused"),
        ("sgd", {"momentum": 0.9}, torch.bfloat16, "SGD with implementation: compiled"),
        ("adamw", {"amsgrad": True}, torch.bfloat16, "it does not support amsgrad"),
    ],
)
def test_stochastic_rounding_is_refused_where_no_step_does_it(key, params, dtype, found):
    with pytest.raises(ValueError, match=f"^stochastic_rounding: true needs implementation: .*; found .*{found}"):
        built([nn.Parameter(torch.ones(3, dtype=dtype))], key, **STOCHASTIC, **params)


def test_stochastic_rounding_is_refused_where_it_cannot_be_meant():
    with pytest.raises(ValueError, match=r"stochastic_rounding\n.*is for Adam, AdamW and SGD, and not for NAdam"):
        OPTIMIZER_BUILDER_REGISTRY["nadam"](lr=0.1, **STOCHASTIC)
    with pytest.raises(ValueError, match="stochastic_rounding is not available in a fallback"):
        OPTIMIZER_BUILDER_REGISTRY["muon"](fallback={"type": "adamw", **STOCHASTIC})
    optimizer = train(built(random_ones(torch.bfloat16), implementation="auto", **STOCHASTIC), range(1))
    assert implementation_of(optimizer) == "compiled"
    with pytest.raises(ValueError, match="stochastic_rounding: build the optimizer with use_cautious_optimizer"):
        CautiousOptimizer(optimizer)
    optimizer.param_groups[0]["amsgrad"] = True
    before = [x.clone() for x in everything(optimizer)]
    with pytest.raises(RuntimeError, match="stochastic_rounding: the compiled step cannot take this step"):
        optimizer.step()
    assert all(map(torch.equal, before, everything(optimizer)))
