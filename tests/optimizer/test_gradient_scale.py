"""A scale that a step multiplies all gradients with."""

from dataclasses import replace

import pytest
import torch
from sample_steps import Shapes

from optimizer import OPTIMIZER_BUILDER_REGISTRY


def with_gradients(module, seed=1):
    torch.manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    return module


def stepped(key, scale, in_place, steps=3, **options):
    """Return a module after steps at a scale that the step applies, or that its gradients have before."""
    module = Shapes(torch.float32)
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](grad_clip_norm=None, **options).build(module)
    for seed in range(steps):
        with_gradients(module, seed)
        if in_place:
            torch._foreach_mul_([p.grad for p in module.parameters()], scale)
        else:
            optimizer.gradient_scale = scale
        optimizer.step()
        assert optimizer.gradient_scale is None
    return module


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("sgd", {}),
        ("adamw", {}),
        ("adamw", {"use_cautious_optimizer": True}),
        ("adamw", {"implementation": "single"}),
        ("schedule_free_radam", {}),
        ("rmsprop", {"use_cautious_optimizer": True}),
    ],
)
def test_a_step_applies_the_scale_to_the_bit(key, options):
    scale = torch.tensor(0.3)
    ours, twin = (stepped(key, scale, in_place, **options) for in_place in (False, True))
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_step_that_raises_clears_the_scale():
    module = with_gradients(Shapes(torch.float32))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=None).build(module)

    def fail(_):
        raise RuntimeError("no step")

    optimizer.kernel = replace(optimizer.kernel, step=fail, scales_gradients=True)
    optimizer.gradient_scale = torch.tensor(0.5)
    with pytest.raises(RuntimeError, match="no step"):
        optimizer.step()
    assert optimizer.gradient_scale is None
