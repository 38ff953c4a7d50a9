"""Gradients that a compiled step clips as it reads them, against those that are clipped in place."""

import pytest
import torch
from conftest import NO_COMPILER
from sample_optimizers import HORIZON, KEYS, PARAMS, built, registered, trainable
from sample_steps import WITH_KERNELS, Shapes
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import compiled, native_library
from optimizer.transforms.float64_step import HALVES

GRADIENTS = {"far over": 40.0, "a little over": 0.14, "under": 0.01, "zero": 0.0, "NaN": float("nan"), "inf": torch.inf}


def compiled_over(parameters, key, clip=1.5, **options):
    factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.05, grad_clip_norm=clip, implementation="compiled", **options)
    return factory.build(parameters, horizon=HORIZON)


def fill(module, factor, seed=0):
    torch.manual_seed(seed)
    for name, p in module.named_parameters():
        random = torch.randn(p.shape, dtype=torch.float64)
        p.grad = (
            None if name == "seldom" else torch.where(random.abs() < 1.5, 0.1 * random, factor * random).to(p.dtype)
        )


def stepped(module, optimizer, factor, clip=None):
    """Take three steps, and return everything that they moved."""
    for seed in range(3):
        fill(module, factor, seed)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
    return [*module.parameters(), *(value for p in module.parameters() for value in optimizer.state[p].values())]


def assert_same(some, others, **tolerance):
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **tolerance)


@NO_COMPILER
@pytest.mark.parametrize("factor", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("key", "options"), WITH_KERNELS)
def test_clipping_in_the_step_equals_clipping_in_place_to_the_bit(key, options, dtype, factor):
    ours, theirs = Shapes(dtype), Shapes(dtype)
    in_step, in_place = (compiled_over(module.parameters(), key, **options) for module in (ours, theirs))
    in_place.register_step_post_hook(lambda *_: None)  # it could look at the gradients
    assert_same(stepped(ours, in_step, factor), stepped(theirs, in_place, factor), rtol=0, atol=0)
    assert_same([in_step.grad_norm], [in_place.grad_norm], rtol=0, atol=0)
    assert in_step.gradient_scale is None
    norm = torch.nn.utils.get_total_norm([p.grad for p in theirs.parameters() if p.grad is not None])
    before = torch.nn.utils.get_total_norm([p.grad for p in ours.parameters() if p.grad is not None])
    assert_same([in_step.grad_norm], [before], rtol=1e-6, atol=0)
    if before.isfinite():
        assert_same([norm], [before.clamp(max=1.5)], rtol=1e-5, atol=0)


@NO_COMPILER
@pytest.mark.parametrize("factor", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize(("key", "options"), WITH_KERNELS)
def test_clipping_in_the_step_is_torchs_clipping_and_a_step(key, options, factor):
    ours, theirs = Shapes(torch.float64), Shapes(torch.float64)
    clipped, free = (
        compiled_over(ours.parameters(), key, **options),
        compiled_over(theirs.parameters(), key, 0, **options),
    )
    assert_same(stepped(ours, clipped, factor), stepped(theirs, free, factor, clip=1.5), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("factor", [40.0, 0.01])
@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("lbfgs", "sparseadam")])
def test_every_small_optimizer_clips_as_torch_does_to_the_bit(key, factor):
    moved = []
    for clip in (1.5, None):
        module = trainable(key)
        optimizer = built(registered(key)(**{**PARAMS.get(key, {}), "grad_clip_norm": clip}), module)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for seed in range(3):
            fill(module, factor, seed)
            if clip is None:
                norm = torch.nn.utils.clip_grad_norm_(held, 1.5)
            optimizer.step()
        moved.append([*module.parameters(), norm if clip is None else optimizer.grad_norm])
    assert_same(*moved, rtol=0, atol=0)


@NO_COMPILER
@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_in_half_precision_are_clipped_by_their_norm_rounded_once(dtype, caution):
    moved = []
    for has_hook in (False, True):
        generator = torch.Generator().manual_seed(3)
        parameters = [nn.Parameter(torch.ones(size, dtype=dtype)) for size in (70_001, 301, 3)]
        optimizer = compiled_over(parameters, "adamw", use_cautious_optimizer=caution)
        if has_hook:
            optimizer.register_step_post_hook(lambda *_: None)  # it could look at the gradients
        for size in [0.1, 7.0, 0.001] * 5:
            for p in parameters:
                p.grad = (torch.randn(p.shape, generator=generator) * size / p.numel() ** 0.5).to(dtype)
            exact = torch.cat([p.grad.double() for p in parameters]).norm()
            optimizer.step()
            assert torch.equal(optimizer.grad_norm, exact.to(dtype))
        moved.append(parameters)
    assert_same(*moved, rtol=0, atol=0)


def two_groups(module):
    own = list(module.parameters())
    return [{"params": own[:2], "lr": 0.1}, {"params": own[2:], "weight_decay": 0.2}]


@NO_COMPILER
def test_groups_are_clipped_by_their_joint_norm():
    ours, theirs = Shapes(torch.float64), Shapes(torch.float64)
    clipped, free = (
        compiled_over(two_groups(ours), "adamw", eps=1.0),
        compiled_over(two_groups(theirs), "adamw", 0, eps=1.0),
    )
    assert_same(stepped(ours, clipped, 40.0), stepped(theirs, free, 40.0, clip=1.5), rtol=1e-11, atol=1e-13)
    assert clipped.grad_norm > 100


@NO_COMPILER
@pytest.mark.parametrize("register", ["register_step_pre_hook", "register_step_post_hook"])
def test_a_hook_sees_clipped_gradients(register):
    module, seen = Shapes(torch.float64), []
    optimizer = compiled_over(module.parameters(), "adamw")

    def look(*_):
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item())

    handle = getattr(optimizer, register)(look)
    stepped(module, optimizer, 40.0)
    assert seen == pytest.approx([1.5] * 3)
    handle.remove()
    stepped(module, optimizer, 40.0)
    look()
    assert seen[3] > 100, "without a hook the gradients stay as they were"


@NO_COMPILER
def test_a_closures_gradients_are_clipped_in_place():
    module = Shapes(torch.float64)
    optimizer = compiled_over(module.parameters(), "adamw")
    optimizer.step(lambda: fill(module, 40.0))
    after = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    assert after.item() == pytest.approx(1.5)


@NO_COMPILER
def test_a_step_that_falls_to_the_class_is_clipped():
    ours, theirs = Shapes(torch.float64), Shapes(torch.float64)
    clipped, free = (compiled_over(module.parameters(), "adamw", clip) for module, clip in ((ours, 1.5), (theirs, 0)))
    for optimizer in (clipped, free):
        optimizer.param_groups[0]["amsgrad"] = True  # which compiled steps do not take
    assert_same(stepped(ours, clipped, 40.0), stepped(theirs, free, 40.0, clip=1.5), rtol=1e-11, atol=1e-13)


@NO_COMPILER
@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(1).expand(3, 5),
        torch._efficientzerotensor((3, 5)),
        torch._neg_view(torch.full((3, 5), 7.0)),
        torch.full((5, 3), 7.0).t(),
        torch.full((3, 10), 7.0)[:, ::2],
    ],
    ids=["expanded", "without memory", "negated", "turned", "with gaps"],
)
def test_a_gradient_of_any_layout_has_its_norm(odd):
    p = nn.Parameter(torch.zeros(3, 5))
    optimizer = compiled_over([p], "adamw")
    p.grad = odd
    optimizer.step()
    assert optimizer.grad_norm.item() == pytest.approx(odd.norm().item())


@NO_COMPILER
def test_without_a_library_the_norm_is_torchs(monkeypatch):
    asked = []

    def fail(step, *_):
        asked.append(step)
        if step == "squares":
            raise OSError("no compiler")

    module = Shapes(torch.float64)
    optimizer = compiled_over(module.parameters(), "adamw")
    monkeypatch.setattr(compiled, "FAILURES", {})
    monkeypatch.setattr(native_library, "check_step", fail)
    stepped(module, optimizer, 40.0)
    assert asked.count("squares") == 1, "a compiler that fails is started once"
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert torch.equal(optimizer.grad_norm, torch.nn.utils.get_total_norm(gradients))
