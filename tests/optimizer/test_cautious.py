"""Cautious steps, against the formula of the paper and against plain steps masked by hand."""

import copy
import pickle

import pytest
import torch
from pydantic import ValidationError
from sample_optimizers import KEYS, PARAMS, registered
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, CautiousOptimizer, Horizon

HORIZON = Horizon(40, 10)
REFUSED = {"lbfgs", "sparseadam", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd"}
WITHOUT_DECAY = {"heavyball.AdamW": {"weight_decay": 0.0}}
pytestmark = pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")


def gradient(shape, step):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def net(key):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=key != "muon"), nn.Linear(6, 3, bias=key != "muon"))


@pytest.mark.parametrize("key", KEYS)
def test_each_step_is_the_plain_step_masked(key):
    params = {**PARAMS.get(key, {}), **WITHOUT_DECAY.get(key, {}), "grad_clip_norm": None}
    cautious = registered(key)(**params, use_cautious_optimizer=True)
    if key in REFUSED:
        with pytest.raises(ValueError, match="cannot be made cautious"):
            cautious.build(net(key), horizon=HORIZON)
        return
    ours, plain = net(key), net(key)
    optimizer = cautious.build(ours, horizon=HORIZON)
    twin = registered(key)(**params).build(plain, horizon=HORIZON)
    for step in range(5):
        for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
            q.data.copy_(p.data)  # the state goes on from the same gradients; only the step is masked
            p.grad = gradient(p.shape, step)
            q.grad = gradient(p.shape, step)
        decays = {
            id(p): (g["lr"], g["weight_decay"] if decoupled(key, g) else 0.0)
            for g in twin.param_groups
            for p in g["params"]
        }
        before = [p.detach().clone() for p in ours.parameters()]
        optimizer.step()
        twin.step()
        for p, q, start in zip(ours.parameters(), plain.parameters(), before, strict=True):
            lr, decay = decays[id(q)]
            decayed = start * (1 - lr * decay)
            u = decayed - q.detach()
            m = (u * gradient(q.shape, step) > 0).float()
            torch.testing.assert_close(p.detach(), decayed - u * m / (m.mean() + 1e-8), rtol=1e-5, atol=1e-7)


def decoupled(key, group):
    if "decoupled_weight_decay" in group:
        return group["decoupled_weight_decay"]
    return key.startswith(("muon", "adafactor", "pytorch_optimizer.Lion")) and group.get("weight_decay", 0) != 0


def adamw_reference(p, gradients, lr, betas=(0.9, 0.999), eps=1e-8, decay=0.01, cautious_eps=1e-8):
    """Algorithm 1 for AdamW in float64."""
    p, m, v = p.double(), torch.zeros_like(p).double(), torch.zeros_like(p).double()
    for t, g in enumerate((g.double() for g in gradients), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
        mask = (u * g > 0).double()
        p = p * (1 - lr * decay) - lr * u * mask / (mask.mean() + cautious_eps)
    return p


@pytest.mark.parametrize("way", ["flag", "wrapper"])
def test_cautious_adamw_is_the_papers(way):
    start, gradients = torch.randn(8, 5), [gradient((8, 5), step) for step in range(50)]
    p = nn.Parameter(start.clone())
    if way == "flag":
        optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, grad_clip_norm=0, use_cautious_optimizer=True).build(
            [p]
        )
    else:
        optimizer = CautiousOptimizer(torch.optim.AdamW([p], lr=1e-2), eps=1e-8)
        assert isinstance(optimizer, torch.optim.AdamW)
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach().double(), adamw_reference(start, gradients, 1e-2), rtol=2e-5, atol=1e-6)


def test_with_one_coordinate_left_the_eps_or_the_floor_decides():
    for options, expected in (({}, 4.0), ({"cautious_min_mean": 0.5}, 2.0), ({"cautious_eps": 0.25}, 2.0)):
        p = nn.Parameter(torch.zeros(4))
        factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](
            lr=1.0, momentum=0.9, grad_clip_norm=0, use_cautious_optimizer=True, **options
        )
        optimizer = factory.build([p])
        p.grad = torch.ones(4)
        optimizer.step()
        first = p.detach().clone()
        p.grad = torch.tensor([1.0, -0.1, -0.1, -0.1])  # against the momentum, but for the first coordinate
        optimizer.step()
        moved = first - p.detach()
        assert moved.tolist() == pytest.approx([1.9 * expected, 0.0, 0.0, 0.0], rel=1e-6)


def test_going_up_the_gradient_is_cautious_too():
    ps = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"]
    for p, maximize, sign in ((ps[0], False, 1.0), (ps[1], True, -1.0)):
        optimizer = factory(maximize=maximize, use_cautious_optimizer=True, weight_decay=0.0).build([p])
        for step in range(4):
            p.grad = sign * gradient(3, step)
            optimizer.step()
    assert torch.equal(ps[0], ps[1])
    assert ps[0].abs().min() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_stays_cautious(copied):
    p = nn.Parameter(torch.zeros(4))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=1.0, momentum=0.9, use_cautious_optimizer=True).build([p])
    p.grad = torch.ones(4)
    optimizer.step()
    twin_p, twin = copied((p, optimizer))
    for q, one in ((p, optimizer), (twin_p, twin)):
        q.grad = torch.tensor([1.0, -0.1, -0.1, -0.1])
        one.step()
    assert torch.equal(p, twin_p)
    assert twin_p[1] == twin_p[2] == -1.0


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_moves_nothing_and_a_hook_sees_the_cautious_step(fused):
    module, seen = nn.Linear(3, 3), []
    implementation = "fused" if fused else "foreach"
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](use_cautious_optimizer=True, implementation=implementation).build(
        module
    )
    optimizer.register_step_post_hook(lambda *_: seen.append(module.weight.detach().clone()))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in (False, True, False):
        before = module.weight.detach().clone()
        scaler.scale(module(torch.ones(2, 3)).square().sum()).backward()
        if overflow:
            module.weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(module.weight, before) is overflow
        assert torch.equal(seen[-1], module.weight)
    assert optimizer.scheduler.last_epoch == 2


def test_what_means_nothing_is_refused():
    with pytest.raises(ValidationError, match="does nothing without use_cautious_optimizer"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](cautious_eps=1e-6)
    with pytest.raises(ValidationError, match="cautious_eps"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](use_cautious_optimizer=True, cautious_eps=-1.0)
    with pytest.raises(ValueError, match="one of them > 0"):
        CautiousOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), eps=0.0)
    pytest.importorskip("heavyball", reason="needs heavyball")
    factory = OPTIMIZER_BUILDER_REGISTRY["heavyball.AdamW"](weight_decay=0.1, use_cautious_optimizer=True)
    with pytest.raises(ValueError, match="does not state whether its weight decay is decoupled"):
        factory.build(nn.Linear(2, 2))
