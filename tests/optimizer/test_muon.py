"""Muon with a fallback for parameters that are not matrices: one optimizer to the outside."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

MUON = OPTIMIZER_BUILDER_REGISTRY["muon"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def backward(module, step):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    module(x).square().mean().backward()


def test_equals_two_optimizers_side_by_side():
    ours, theirs = net(), net()
    factory = MUON(lr=0.02, fallback={"type": "adamw", "lr": 3e-3}, fallback_match=["2.*"], schedule={"type": "linear"})
    optimizer = factory.build(ours, horizon=Horizon(20))
    muon = torch.optim.Muon([theirs[0].weight], lr=0.02)
    rest = [p for name, p in theirs.named_parameters() if name != "0.weight"]
    adamw = torch.optim.AdamW(rest, lr=3e-3, fused=True)
    for step in range(20):
        backward(ours, step)
        backward(theirs, step)
        for one, lr in ((muon, 0.02), (adamw, 3e-3)):
            one.param_groups[0]["lr"] = lr * (1 - step / 20)
        for one in (optimizer, muon, adamw):
            one.step()
            one.zero_grad()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_hooks_fire_once_also_those_for_all_optimizers():
    module, seen = net(), []
    optimizer = MUON(fallback={"type": "adamw"}).build(module)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("any"))
    try:
        backward(module, 0)
        optimizer.step()
    finally:
        handle.remove()
    assert sorted(seen) == ["after", "any", "before"]


def test_a_copy_goes_its_own_way():
    module = net()
    optimizer = MUON(fallback={"type": "adamw"}).build(module)
    backward(module, 0)
    optimizer.step()
    twin_module, twin = copy.deepcopy((module, optimizer))
    before = [p.detach().clone() for p in module.parameters()]
    backward(twin_module, 1)
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(twin_module.parameters(), before, strict=True))


def test_closures_and_late_groups():
    module, late = net(), nn.Linear(2, 2)
    optimizer = MUON(fallback={"type": "adamw", "lr": 1e-3}).build(module)
    optimizer.add_param_group({"params": [("late.weight", late.weight)]})
    optimizer.add_param_group({"params": [("late.bias", late.bias)], "part": 1})
    before = late.weight.detach().clone(), late.bias.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = late(module(torch.ones(3, 4))).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert not torch.equal(late.weight, before[0])
    assert not torch.equal(late.bias, before[1])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3] * 4


def test_a_scaler_skips_the_whole_or_nothing():
    module = net()
    optimizer = MUON(fallback={"type": "adamw"}).build(module)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in (False, True):
        before = [p.detach().clone() for p in module.parameters()]
        scaler.scale(module(torch.ones(3, 4)).square().sum()).backward()
        if overflow:
            module[1].bias.grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        same = [torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True)]
        assert all(same) if overflow else not any(same)
    assert optimizer.scheduler.last_epoch == 1


def test_rules_reach_both():
    rules = [{"match": "0.*", "lr_multiplier": 0.5}, {"match": "1.*", "lr": 0.7}]
    optimizer = MUON(lr=0.02, fallback={"type": "adamw", "lr": 1e-3}, param_groups=rules, no_decay=True).build(net())
    lrs = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert lrs == pytest.approx(
        {"0.weight": 0.01, "0.bias": 5e-4, "1.weight": 0.7, "1.bias": 0.7, "2.weight": 0.02, "2.bias": 1e-3}
    )
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name for name, decay in decays.items() if decay == 0} == {"0.bias", "1.weight", "1.bias", "2.bias"}


def test_only_matrices_need_no_fallback_and_others_are_named_without():
    assert isinstance(MUON().build(nn.Linear(3, 3, bias=False)), torch.optim.Muon)
    assert isinstance(MUON(fallback={"type": "adamw"}).build(nn.Linear(3, 3, bias=False)), torch.optim.Muon)
    with pytest.raises(ValueError, match=r"these are not matrices: 0.bias, 1.weight, 1.bias, 2.bias"):
        MUON().build(net())
    with pytest.raises(ValueError, match="there is no matrix"):
        MUON(fallback={"type": "adamw"}).build(nn.LayerNorm(3))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fallback": {"type": "adamww"}}, "did you mean 'adamw'"),
        ({"fallback": {"type": "adamw", "lrr": 1}}, r"fallback.lrr"),
        ({"fallback": {"type": "muon"}}, "cannot be Muon"),
        ({"fallback": {"type": "lbfgs"}}, "cannot be LBFGS"),
        ({"fallback": {"type": "schedule_free_radam"}}, "schedule_free_radam is not allowed here"),
        ({"fallback": {"type": "adamw", "schedule": {"type": "linear"}}}, "schedule applies to the whole optimizer"),
        ({"fallback": {"type": "adamw", "grad_clip_norm": 1.0}}, "grad_clip_norm applies to the whole"),
        ({"fallback_match": ["2.*"]}, "needs a fallback"),
        ({"fallback": "adamw"}, "must be a mapping"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused(params, message):
    with pytest.raises(ValidationError, match=message):
        MUON(**params)


def test_patterns_and_options_that_fit_nothing_are_refused():
    with pytest.raises(ValueError, match="fallback_match: no parameter's name matches 'embed"):
        MUON(fallback={"type": "adamw"}, fallback_match=["embed.*"]).build(net())
    with pytest.raises(ValueError, match=r"AdamW, the fallback, has no momentum; it is for 1.weight, 1.bias"):
        MUON(fallback={"type": "adamw"}, param_groups=[{"match": "1.*", "momentum": 0.5}]).build(net())
