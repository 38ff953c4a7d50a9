"""Clipping inside the step."""

import pickle

import pytest
import torch
from sample_steps import Shapes
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY


def backward(module):
    module(torch.ones(3, 4)).square().mean().backward()


def norm_after(module, optimizer, *arguments):
    seen = []
    handle = optimizer.register_step_post_hook(
        lambda *_: seen.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]))
    )
    optimizer.step(*arguments)
    handle.remove()
    return float(seen[0])


def test_clipping_scales_the_joint_norm_down():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=0.1).build(module)
    backward(module)
    assert norm_after(module, optimizer) == pytest.approx(0.1, rel=1e-4)


def test_clipping_leaves_small_gradients_and_none_alone():
    for norm in (1e6, 0, None):
        module = nn.Linear(4, 2)
        optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=norm).build(module)
        backward(module)
        before = module.weight.grad.clone()
        optimizer.step()
        assert torch.equal(module.weight.grad, before)


def test_clipping_a_closures_gradients_are_clipped():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=0.1).build(module)

    def closure():
        backward(module)
        return 1.0

    assert norm_after(module, optimizer, closure) == pytest.approx(0.1, rel=1e-4)


def test_clipping_scaled_gradients_of_a_fused_step_are_clipped_at_their_scale():
    """A fused step under GradScaler gets the gradients before they are unscaled."""
    results = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        module = nn.Linear(4, 2)
        factory = OPTIMIZER_BUILDER_REGISTRY["adam"](grad_clip_norm=1e-3, eps=1.0, implementation="fused")
        optimizer = factory.build(module)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
        scaler.step(optimizer)
        results.append(optimizer.state[module.weight]["exp_avg"].clone())
    torch.testing.assert_close(*results, rtol=1e-3, atol=0)
    assert results[0].norm() > 0


def test_clipping_survives_a_copy():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=0.1).build(module)
    module, optimizer = pickle.loads(pickle.dumps((module, optimizer)))
    backward(module)
    assert norm_after(module, optimizer) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.125, 1.0, 100.0, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clipping_is_torchs_to_the_bit(dtype, scale):
    ours, theirs = Shapes(dtype), Shapes(dtype)
    for module in (ours, theirs):
        torch.manual_seed(1)
        for p in module.parameters():
            p.grad = (torch.randn(p.shape) * scale).to(dtype)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.0, grad_clip_norm=3.0).build(ours)
    optimizer.step()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 3.0)
    torch.testing.assert_close(optimizer.grad_norm, norm, rtol=0, atol=0, equal_nan=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0, equal_nan=True)
