"""Changes between two steps of a small optimizer: the step notices them, also without torch's private functions."""

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import step_tensors
from optimizer.transforms import step_hooks


@pytest.fixture(params=["torch's private functions", "none of them"])
def private(request, monkeypatch):
    if request.param == "none of them":
        monkeypatch.setattr(step_tensors, "_TensorGuards", None)
        monkeypatch.delattr(torch.autograd.profiler, "_is_profiler_enabled")
        monkeypatch.setattr(step_hooks, "_set_grad_enabled", torch.set_grad_enabled)
    else:
        assert step_tensors._TensorGuards is not None
        assert not step_hooks.is_profiled()


def built(implementation="auto", **params):
    torch.manual_seed(3)
    parameters = [nn.Parameter(torch.randn(3, 3)) for _ in range(3)]
    for index, p in enumerate(parameters):
        p.grad = torch.randn(3, 3) * (index + 1)
    params = {"lr": 0.01, "grad_clip_norm": None, "schedule": {"type": "constant"}, **params}
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**params, implementation=implementation).build(parameters)
    for _ in range(3):
        optimizer.step()
    return optimizer, parameters


def transpose_gradient(optimizer, parameters):
    parameters[1].grad = torch.arange(9.0).view(3, 3).t()


def negate_gradient(optimizer, parameters):
    parameters[1].grad = torch.arange(9.0).view(3, 3)._neg_view()


def zero_gradient(optimizer, parameters):
    parameters[1].grad = torch._efficientzerotensor((3, 3))


def take_part_of_a_buffer(optimizer, parameters):
    parameters[1].grad = torch.arange(40.0)[7:16].view(3, 3)


def transpose_parameter(optimizer, parameters):
    parameters[1].data = parameters[1].data.t().clone(memory_format=torch.preserve_format)


def transpose_parameter_in_its_memory(optimizer, parameters):
    parameters[1].data = parameters[1].data.t()


def replace_moment(optimizer, parameters):
    optimizer.state[parameters[1]]["exp_avg_sq"] = torch.arange(1.0, 10.0).view(3, 3).t()


def withhold_gradient(optimizer, parameters):
    parameters[0].grad = None


def pass_gradient_on(optimizer, parameters):
    parameters[0].grad = None
    optimizer.step()
    parameters[0].grad, parameters[2].grad = parameters[2].grad, None


def forget_state(optimizer, parameters):
    del optimizer.state[parameters[1]]


def leave_fused(optimizer, parameters):
    optimizer.param_groups[0] |= {"fused": False, "amsgrad": True}
    for state in optimizer.state.values():
        state["max_exp_avg_sq"] = torch.ones(3, 3)


def add_group(optimizer, parameters):
    late = nn.Parameter(torch.arange(4.0))
    late.grad = torch.ones(4)
    parameters.append(late)
    optimizer.add_param_group({"params": [late], "lr": 0.1})


CHANGES = [
    transpose_gradient, negate_gradient, zero_gradient, take_part_of_a_buffer, transpose_parameter,
    transpose_parameter_in_its_memory, replace_moment, withhold_gradient, pass_gradient_on, forget_state, leave_fused,
    add_group,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_step_after_a_change_equals_the_step_of_the_class(private, change):
    results = []
    for implementation in ("auto", "single"):
        optimizer, parameters = built(implementation)
        change(optimizer, parameters)
        optimizer.step()
        optimizer.step()
        results.append([p.detach() for p in parameters])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("what", ["parameter", "gradient", "exp_avg"])
@pytest.mark.parametrize("size", [0, 8])
def test_memory_that_was_taken_away_is_refused_before_anything_moves(private, what, size):
    optimizer, parameters = built()
    tensors = {"parameter": parameters[2], "gradient": parameters[2].grad, **optimizer.state[parameters[2]]}
    tensors[what].untyped_storage().resize_(size)
    before = [p.detach().clone() for p in parameters[:2]]
    with pytest.raises(RuntimeError, match="freed or resized"):
        optimizer.step()
    assert all(map(torch.equal, before, parameters[:2]))
    assert optimizer.scheduler.last_epoch == 3


def test_no_new_moment_has_the_identity_of_a_checked_one(private):
    optimizer, parameters = built("auto")
    optimizer.step()
    optimizer.step()
    identity = id(optimizer.state[parameters[1]]["exp_avg"])
    del optimizer.state[parameters[1]]["exp_avg"]
    assert identity not in [*map(id, [torch.ones(3, 3) for _ in range(30)])]


def test_a_checked_step_is_not_checked_again(private, monkeypatch):
    optimizer, parameters = built()
    checked = optimizer.checked_tensors
    assert checked is not None
    for p in parameters:
        p.grad = p.grad.clone()
    optimizer.step()
    assert optimizer.checked_tensors is checked


def events(step):
    with torch.profiler.profile(acc_events=True) as profile:
        step()
    return [
        (event.name, event.is_user_annotation, event.scope)
        for event in profile.events()
        if event.name.startswith("Optimizer.step")
    ]


def test_profiler_sees_a_step_as_that_of_torch(private):
    optimizer, _ = built(grad_clip_norm=1.0)
    name, is_user_annotation, scope = events(torch.optim.AdamW([nn.Parameter(torch.ones(2))]).step)[0]
    assert events(optimizer.step) == [(f"Optimizer.step#{type(optimizer).__name__}.step", is_user_annotation, scope)]
    assert name == "Optimizer.step#AdamW.step"


def test_hooks_of_all_kinds_are_called_in_torchs_order(private):
    optimizer, _ = built(grad_clip_norm=1e-3)
    called = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: called.append("any pre")),
        register_optimizer_step_post_hook(lambda *_: called.append("any post")),
        optimizer.register_step_pre_hook(lambda *_: called.append("pre")),
        optimizer.register_step_post_hook(lambda *_: called.append("post")),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert called == ["any pre", "pre", "post", "any post"]
    assert optimizer.grad_norm is not None


def test_autograd_is_on_again_after_a_step_that_fails(private):
    optimizer, parameters = built()
    parameters[0].grad.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert torch.is_grad_enabled()
