"""Clips, checks and metrics of components whose gradients' norms are taken once, against clips in place, one by one."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.kernels import compiled
from trainer import NonFiniteError
from trainer.distributed.world import World
from trainer.loop.gradient_updates import GradientUpdater
from trainer.loop.rules import Rules

COMPILED = {"implementation": "compiled"}
OPTIMS = {
    "large": ("adamw", {"lr": 0.01, "eps": 1.0, **COMPILED}),
    "cautious": ("adamw", {"lr": 0.02, "eps": 1.0, "use_cautious_optimizer": True, **COMPILED}),
    "free": ("schedule_free_radam", {"lr": 0.1, **COMPILED}),
    "small": ("sgd", {"lr": 0.1}),
    "sum": ("adamw", {"lr": 0.01, "eps": 1.0, "implementation": "single"}),
}


def components(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(5, 4, dtype=dtype) for name in OPTIMS})


def optimizers_of(parts, clip):
    return {
        name: OPTIMIZER_BUILDER_REGISTRY[key](grad_clip_norm=clip, **options).build(parts[name], horizon=Horizon(50))
        for name, (key, options) in OPTIMS.items()
    }


def updater_of(parts, clip, joint, **rules):
    averages = SimpleNamespace(follow=lambda _: None)
    made = GradientUpdater(
        parts, optimizers_of(parts, clip), World(), Rules(grad_clip_norm=joint, **rules), averages, print
    )
    made.record_gradients = True
    return made


def loss_of(parts, update, factor=1.0):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
    x = x.to(next(parts.parameters()).dtype)
    return factor * sum((index + 1) * part(x).square().mean() for index, part in enumerate(parts.values()))


def updated(updater, parts, updates=4, **options):
    for update in range(updates):
        updater.begin_update(update, (6,))
        updater.begin_batch(0)
        updater.step(loss_of(parts, update, **options))
    return parts


def one_by_one(clip, joint, updates=4):
    """Return components after updates by PyTorch's clipping, and the norms by component."""
    parts = components()
    optimizers = optimizers_of(parts, None)
    for update in range(updates):
        parts.zero_grad()
        loss_of(parts, update).backward()
        norms = {name: nn.utils.get_total_norm([p.grad for p in part.parameters()]) for name, part in parts.items()}
        if joint:
            nn.utils.clip_grad_norm_(parts.parameters(), joint)
        own = {name: nn.utils.clip_grad_norm_(part.parameters(), clip or math.inf) for name, part in parts.items()}
        for optimizer in optimizers.values():
            optimizer.step()
    return parts, norms, own


@NO_COMPILER
@pytest.mark.parametrize("joint", [None, 0.5, 1e3], ids=["alone", "joint", "under"])
@pytest.mark.parametrize("clip", [None, 0.1, 1e3], ids=["free", "clipped", "below"])
@pytest.mark.parametrize("rule", ["stop", "continue"])
def test_clips_with_one_norm_are_clips_one_by_one(clip, joint, rule):
    twins, norms, own = one_by_one(clip, joint)
    parts = components()
    updater = updater_of(parts, clip, joint, on_nonfinite=rule)
    updated(updater, parts)
    for ours, theirs in zip(parts.parameters(), twins.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    for name, optimizer in updater.optimizers.items():
        metric = updater.gradient_metrics[name]["grad_norm"]
        torch.testing.assert_close(metric, norms[name], rtol=1e-12, atol=0)
        if clip is not None:
            torch.testing.assert_close(optimizer.grad_norm, own[name], rtol=1e-11, atol=0)
        assert optimizer.gradient_scale is optimizer.known_norm is None


@NO_COMPILER
def test_gradients_are_read_once_for_everything(monkeypatch):
    taken = []

    def counting(lists):
        taken.append([sum(map(torch.numel, gradients)) for gradients in lists])
        return compiled.joint_norms(lists)

    parts = components()
    updater = updater_of(parts, 0.1, 0.5)
    for optimizer in updater.optimizers.values():
        if optimizer.kernel is not None and optimizer.kernel.norms is not None:
            optimizer.kernel = replace(optimizer.kernel, norms=counting)
    updated(updater, parts, updates=1)
    measured = ["large", "cautious", "free"]
    assert taken == [[sum(p.numel() for p in parts[name].parameters()) for name in measured]], "in one pass"
    for name in measured:
        gradients = [p.grad for p in parts[name].parameters()]
        norm = updater.gradient_metrics[name]["grad_norm"]
        assert nn.utils.get_total_norm(gradients).item() == pytest.approx(norm.item()), "as the backward pass left them"


@NO_COMPILER
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["large", "small"])
def test_a_gradient_that_is_not_finite_stops_before_anything_moves(name, value):
    parts = components()
    updater = updater_of(parts, 0.1, 0.5)
    updated(updater, parts)
    before = [p.clone() for p in parts.parameters()]
    parts[name].bias.register_hook(lambda gradient: torch.full_like(gradient, value))
    with pytest.raises(NonFiniteError, match=f"gradient of {name}"):
        updated(updater, parts, 1)
    assert all(map(torch.equal, before, parts.parameters()))


@NO_COMPILER
def test_a_norm_beyond_the_type_of_finite_gradients_is_no_failure():
    parts = components(torch.float32)
    updater = updater_of(parts, None, None)
    for name in ("large", "cautious"):
        parts[name].bias.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    updated(updater, parts, 1)
    assert updater.stepped == set(OPTIMS)
    assert updater.gradient_metrics["large"]["grad_norm"].isinf()


@NO_COMPILER
def test_with_a_loss_scale_a_component_that_overflows_is_left_out():
    parts = components(torch.float32)
    updater = updater_of(parts, 0.1, 0.5, precision="fp16")
    before = {name: part.weight.clone() for name, part in parts.items()}
    parts["large"].weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    updated(updater, parts, 1)
    moved = {name for name, part in parts.items() if not torch.equal(part.weight, before[name])}
    assert moved == {"cautious", "small", "sum"}, "schedule-free RAdam moves nothing in its first updates"
    assert all(optimizer.gradient_scale is optimizer.known_norm is None for optimizer in updater.optimizers.values())


@NO_COMPILER
def test_a_skipped_update_leaves_no_scale_behind():
    parts = components()
    updater = updater_of(parts, None, 0.5, on_nonfinite="skip")
    updater.restore_buffers = lambda: None
    updated(updater, parts, 1, factor=math.nan)
    twins, _, _ = one_by_one(None, 0.5, updates=2)
    for update in range(2):
        updater.begin_update(update, (6,))
        updater.begin_batch(0)
        updater.step(loss_of(parts, update))
    for ours, theirs in zip(parts.parameters(), twins.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@NO_COMPILER
def test_an_optimizer_of_some_parameters_clips_by_their_norm():
    parts = components()
    updater = updater_of(parts, 0.1, 0.5)
    some = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, grad_clip_norm=0.1, **COMPILED).build([parts["large"].bias])
    updater = GradientUpdater(
        parts,
        updater.optimizers | {"large": some},
        World(),
        updater.rules,
        SimpleNamespace(follow=lambda _: None),
        print,
    )
    updated(updater, parts, 1)
    torch.testing.assert_close(some.grad_norm, parts["large"].bias.grad.norm(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_component_that_is_named_twice_is_refused(precision):
    parts = components(torch.float32)
    updater = updater_of(parts, None, 0.5, precision=precision)
    updater.begin_update(0, (6,))
    updater.begin_batch(0)
    with pytest.raises(ValueError, match="name each component once; got large, small, large"):
        updater.step(loss_of(parts, 0), "large", "small", "large")
    assert updater.stepped == set()
