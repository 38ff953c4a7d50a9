"""Compiled steps that keep addresses from step to step, whatever changes between two steps."""

import copy
import weakref

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import native

pytestmark = NO_COMPILER

SHAPES = [(5, 7), (3,), (), (0,), (70_000,)]

KEYS = {
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "cautious": ("adam", {"weight_decay": 0.1, "use_cautious_optimizer": True}),
    "sgd": ("sgd", {"momentum": 0.9, "nesterov": True, "use_cautious_optimizer": True}),
    "schedule-free": ("schedule_free_radam", {"weight_decay": 0.1}),
}


def pair(key, params):
    """Return an optimizer with compiled steps and its slow twin, each over two groups with float64 parameters."""
    optimizers = []
    for implementation in ("compiled", "auto" if key == "schedule_free_radam" else "single"):
        generator = torch.Generator().manual_seed(3)
        tensors = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]
        groups = [{"params": tensors[:2]}, {"params": tensors[2:], "lr": 0.02}]
        factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, implementation=implementation, grad_clip_norm=None, **params)
        optimizers.append(factory.build(groups))
    return optimizers


def parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer, update, missing=()):
    for place, p in enumerate(parameters(optimizer)):
        generator = torch.Generator().manual_seed(100 * update + place)
        gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = None if place in missing else gradient
    optimizer.step()


def in_place(optimizer):
    parameters(optimizer)[1].data.mul_(2.0)


def other_memory(optimizer):
    for p in parameters(optimizer):
        p.data = p.data.clone() * 1.5


def other_state(optimizer):
    for state in optimizer.state.values():
        state |= {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def loaded_state(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def own_state_loaded(optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


def other_group(optimizer):
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "weight_decay": 0.5, "lr": 0.05}


def counts_in_place(optimizer):
    for state in list(optimizer.state.values())[1:3]:
        if "step" in state:
            state["step"].fill_(1.0)


def counts_replaced(optimizer):
    for state in list(optimizer.state.values())[1:]:
        if "step" in state:
            state["step"] = torch.tensor(7.0, dtype=torch.float64)


def counts_negated(optimizer):
    for state in list(optimizer.state.values())[1:]:
        if "step" in state:
            state["step"] = torch._neg_view(-state["step"])


def counts_in_other_memory(optimizer):
    for state in list(optimizer.state.values())[1:]:
        if "step" in state:
            state["old"] = state["step"].detach()  # its memory stays as it is
            state["step"].data = torch.tensor(4.0)


def options(optimizer):
    optimizer.param_groups[1]["weight_decay"] = 0.5
    if "nesterov" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["nesterov"] = False
    elif "k" not in optimizer.param_groups[0]:
        optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        optimizer.param_groups[1]["maximize"] = True


def late_group(optimizer):
    p = nn.Parameter(torch.ones(9, dtype=torch.float32))
    optimizer.add_param_group({**{k: v for k, v in optimizer.param_groups[0].items() if k != "params"}, "params": [p]})


CHANGES = (
    in_place, other_memory, other_state, loaded_state, own_state_loaded, other_group, counts_in_place, counts_replaced,
    counts_negated, counts_in_other_memory, options, late_group,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", KEYS)
def test_steps_equal_those_of_the_slow_twin_after_a_change(name, change):
    moved = []
    for optimizer in pair(*KEYS[name]):
        for update in range(10):
            if update == 7:
                change(optimizer)
            step(optimizer, update, missing=[0, 2] if update in (1, 5) else ())
        moved.append(parameters(optimizer))
    for ours, theirs in zip(*moved, strict=True):
        limit = 1e-12 if ours.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit)


@pytest.mark.parametrize("name", KEYS)
def test_a_parameter_that_changes_groups_has_the_options_of_the_new_one(name):
    moved = []
    for optimizer in pair(*KEYS[name]):
        first, second = optimizer.param_groups
        for update in range(6):
            if update == 4:  # the tensors with gradients are the same ones, in the same order
                first["params"][1], second["params"][0] = second["params"][0], first["params"][1]
            step(optimizer, update, missing=[1 if update < 4 else 2])
        moved.append(parameters(optimizer))
    for ours, theirs in zip(*moved, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_addresses_are_taken_once_while_only_gradients_are_new(monkeypatch):
    made = []

    class Counted(native.Step):
        def __init__(self, *args, **options):
            made.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(native, "Step", Counted)
    optimizer, _ = pair(*KEYS["cautious"])
    for update in range(6):
        step(optimizer, update)
    assert len(made) == 2  # the first step makes the state
    assert len(made[0][1]) == len(SHAPES)  # both groups are one call


def test_a_prepared_step_keeps_no_gradient_alive():
    optimizer, _ = pair(*KEYS["adamw"])
    for update in range(3):
        step(optimizer, update)
    gradients = [weakref.ref(p.grad) for p in parameters(optimizer)]
    optimizer.zero_grad()
    assert [gradient() for gradient in gradients] == [None] * len(SHAPES)
    assert "prepared_step" not in copy.deepcopy(optimizer).__dict__


@pytest.mark.parametrize("name", KEYS)
def test_loading_keeps_no_state_of_before_alive(name):
    optimizer, _ = pair(*KEYS[name])
    for update in range(4):
        step(optimizer, update)
    saved = copy.deepcopy(optimizer.state_dict())
    before = [weakref.ref(x) for state in optimizer.state.values() for x in state.values() if x is not None]
    optimizer.load_state_dict(saved)
    assert [value() for value in before] == [None] * len(before)


@pytest.mark.parametrize("cautious", [False, True])
def test_an_invalid_number_is_found_before_parameters_of_any_type_move(cautious):
    parameters = [nn.Parameter(torch.ones(5, dtype=dtype)) for dtype in (torch.float64, torch.float32)]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        lr=0.1, implementation="compiled", grad_clip_norm=None, use_cautious_optimizer=cautious
    )
    optimizer = factory.build([{"params": [p]} for p in parameters])
    for _ in range(3):
        step(optimizer, 1)
    before = [p.clone() for p in parameters]
    optimizer.param_groups[1]["eps"] = None
    with pytest.raises(TypeError):
        step(optimizer, 2)
    assert all(map(torch.equal, before, parameters))
    assert [float(state["step"]) for state in optimizer.state.values()] == [3.0, 3.0]
