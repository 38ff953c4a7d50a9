"""The schedule inside the step, among the things that touch an optimizer."""

import copy
import gc
import math
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim.lr_scheduler import LambdaLR, StepLR

from optimizer import OPTIMIZER_BUILDER_REGISTRY, AdamWWithWarmupCosine, ScheduledOptimizer, StepOptions, scheduled
from optimizer.schedules.basic import Constant, WarmupCosineDecay

CURVE = {"peak_lr": 1e-2, "start_lr": 1e-4, "end_lr": 1e-3, "total_steps": 20, "warmup_steps": 5}


class Naive(torch.optim.AdamW):
    """The plain pattern: a subclass with its own step. What these tests guard against."""

    def __init__(self, params, **fields):
        super().__init__(params, lr=fields["peak_lr"], fused=fields.pop("fused", None))
        curve = WarmupCosineDecay(**fields)
        self.scheduler = LambdaLR(self, lambda k: curve.lr_at(k) / curve.peak_lr)

    def step(self, closure=None):
        loss = super().step(closure)
        self.scheduler.step()
        return loss


def ours(module, **changed):
    return AdamWWithWarmupCosine(module.named_parameters(), **{**CURVE, **changed})


def backward(module):
    module(torch.ones(3, 4)).square().mean().backward()


def test_hooks_fire_once_a_step_whichever_class_came_first():
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # makes torch hook the base class's step
    counts = {}
    for cls in (Naive, AdamWWithWarmupCosine):
        module = nn.Linear(4, 2)
        optimizer = cls(module.parameters(), **CURVE)
        counts[cls] = 0

        def count(*_, cls=cls):
            counts[cls] += 1

        optimizer.register_step_post_hook(count)
        backward(module)
        optimizer.step()
    assert counts == {Naive: 2, AdamWWithWarmupCosine: 1}


def test_hooks_see_the_lr_that_the_update_used():
    module, seen = nn.Linear(4, 2), []
    optimizer = ours(module)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    for _ in range(3):
        backward(module)
        optimizer.step()
    curve = WarmupCosineDecay(**CURVE)
    assert seen == [curve.lr_at(k) for k in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_grad_scaler_skips_moves_nothing(fused):
    positions = {}
    for cls in (Naive, AdamWWithWarmupCosine):
        module = nn.Linear(4, 2)
        optimizer = cls(module.parameters(), **CURVE, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for overflow in (False, True, False):
            scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
            if overflow:
                module.weight.grad[0, 0] = math.inf
            before = module.weight.detach().clone(), optimizer.param_groups[0]["lr"]
            scaler.step(optimizer)
            scaler.update()
            if overflow:
                assert torch.equal(module.weight, before[0])
            optimizer.zero_grad()
        positions[cls] = optimizer.scheduler.last_epoch
    assert positions == {Naive: 3 if fused else 2, AdamWWithWarmupCosine: 2}


def test_a_tools_dry_step_moves_nothing():
    for start_lr in (1e-4, 0.0):
        module = nn.Linear(4, 2)
        optimizer = ours(module, start_lr=start_lr)
        before = module.weight.detach().clone()
        state = get_optimizer_state_dict(module, optimizer)
        assert torch.equal(module.weight, before)
        assert (optimizer.scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (0, start_lr)
        assert "scheduler" not in state
        backward(module)
        optimizer.step()
        assert optimizer.scheduler.last_epoch == 1


@pytest.mark.parametrize("copied", [lambda o: o, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_curve_that_starts_at_zero_gets_off_the_ground(copied):
    module = nn.Linear(4, 2)
    module, optimizer = copied((module, ours(module, start_lr=0.0)))
    for step in range(3):
        backward(module)
        optimizer.step()
        assert optimizer.scheduler.last_epoch == step + 1


def test_a_pickle_of_an_earlier_version_is_refused():
    """Unpickled, it would not be clipped any more."""
    optimizer = ours(nn.Linear(4, 2), step_options=StepOptions(grad_clip_norm=1.0))
    state = optimizer.__getstate__()
    del state["step_options"]
    with pytest.raises(ValueError, match="AdamWWithWarmupCosine was pickled by an earlier version"):
        AdamWWithWarmupCosine.__new__(AdamWWithWarmupCosine).__setstate__(state)


def test_a_step_without_gradients_counts():
    optimizer = ours(nn.Linear(4, 2))
    optimizer.step()
    assert optimizer.scheduler.last_epoch == 1


def test_a_closure_counts_once():
    module = nn.Linear(4, 2)
    optimizer = ours(module)

    def closure():
        optimizer.zero_grad()
        loss = module(torch.ones(3, 4)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert optimizer.scheduler.last_epoch == 1


def test_a_second_scheduler_is_refused():
    optimizer = ours(nn.Linear(4, 2))
    with pytest.raises(RuntimeError, match="schedule inside"):
        StepLR(optimizer, 3)


def test_a_late_group_joins_the_running_schedule():
    module, late = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = AdamWWithWarmupCosine(module.parameters(), **CURVE)
    for _ in range(7):
        optimizer.step()
    optimizer.add_param_group({"params": list(late.parameters()), "lr": 1e-3})
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    curve = WarmupCosineDecay(**CURVE)
    for step in range(7, 12):
        lr = curve.lr_at(step)
        assert [group["lr"] for group in optimizer.param_groups] == [lr, pytest.approx(lr / 10), lr]
        optimizer.step()


def test_an_lr_set_by_hand_holds_for_one_update():
    optimizer = ours(nn.Linear(4, 2))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups[0]["initial_lr"] = 0.5  # a record: what it says moves nothing
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == WarmupCosineDecay(**CURVE).lr_at(1)


def test_a_tensor_lr_is_filled_in_place():
    module = nn.Linear(4, 2)
    cls = scheduled(torch.optim.Adam)
    optimizer = cls(module.parameters(), lr=torch.tensor(1e-2), capturable=False, foreach=False)
    optimizer.embed(WarmupCosineDecay(**CURVE))
    lr = optimizer.param_groups[0]["lr"]
    for step in range(4):
        assert float(lr) == pytest.approx(WarmupCosineDecay(**CURVE).lr_at(step))
        backward(module)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] is lr


def test_the_position_is_state_and_the_curve_is_configuration():
    saved = ours(nn.Linear(4, 2))
    for _ in range(8):
        saved.step()
    other = ours(nn.Linear(4, 2), total_steps=100)
    with pytest.warns(UserWarning, match="total_steps: saved 20, now 100"):
        other.load_state_dict(saved.state_dict())
    assert other.scheduler.last_epoch == 8
    assert other.param_groups[0]["lr"] == WarmupCosineDecay(**{**CURVE, "total_steps": 100}).lr_at(8)


def test_a_plain_optimizers_state_is_refused_with_the_way_through():
    plain = torch.optim.AdamW(nn.Linear(4, 2).parameters(), lr=1e-2)
    optimizer = AdamWWithWarmupCosine(nn.Linear(4, 2).parameters(), **CURVE)
    state = plain.state_dict()
    with pytest.raises(ValueError, match="last_epoch"):
        optimizer.load_state_dict(state)
    optimizer.load_state_dict({**state, "scheduler": {"last_epoch": 6}})
    assert optimizer.scheduler.last_epoch == 6


@pytest.mark.parametrize("position", [None, -1, 2.5, "3"])
def test_a_position_that_is_none_is_refused_before_anything_is_loaded(position):
    optimizer = ours(nn.Linear(4, 2))
    state = {**optimizer.state_dict(), "scheduler": {"last_epoch": position}}
    optimizer.step()
    with pytest.raises(ValueError, match=r"^scheduler\.last_epoch: must be a whole number >= 0; got "):
        optimizer.load_state_dict(state)
    assert optimizer.scheduler.last_epoch == 1


def test_other_classes_are_left_as_they_are():
    before = torch.optim.Rprop.step
    optimizer = scheduled(torch.optim.Rprop)(nn.Linear(4, 2).parameters()).embed(Constant())
    optimizer.step()
    assert torch.optim.Rprop.step is before


def test_a_step_before_the_one_that_moves_the_schedule_is_refused():
    class Own(scheduled(torch.optim.SGD)):
        def step(self, closure=None):
            return super().step(closure)

    class Turned(torch.optim.SGD, ScheduledOptimizer):
        pass

    for cls in (Own, Turned):
        with pytest.raises(TypeError, match=r"step must be ScheduledOptimizer's"):
            cls(nn.Linear(4, 2).parameters()).embed(Constant())


def test_a_plain_optimizers_moments_can_be_loaded_without_a_position():
    module, twin = nn.Linear(4, 2), nn.Linear(4, 2)
    twin.load_state_dict(module.state_dict())
    plain = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(3):
        backward(module)
        plain.step()
        plain.zero_grad()
    optimizer = ours(twin)
    for _ in range(2):
        optimizer.step()
    with pytest.raises(ValueError, match=r"strict=False: the schedule then stays at update 2\."):
        optimizer.load_state_dict(plain.state_dict())
    optimizer.load_state_dict(plain.state_dict(), strict=False)
    assert optimizer.scheduler.last_epoch == 2
    assert optimizer.param_groups[0]["lr"] == WarmupCosineDecay(**CURVE).lr_at(2)
    assert torch.equal(optimizer.state[twin.weight]["exp_avg"], plain.state[module.weight]["exp_avg"])


def test_a_plain_optimizer_takes_our_state():
    ours_, plain = ours(nn.Linear(4, 2)), torch.optim.AdamW(nn.Linear(4, 2).parameters())
    plain.load_state_dict(ours_.state_dict())


def test_the_optimizer_keeps_no_model_alive():
    module = nn.Linear(4, 2)
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=1.0)
    optimizer = factory.build(module)
    backward(module)
    optimizer.step()
    watched = weakref.ref(optimizer), weakref.ref(module)
    gc.disable()
    try:
        del module, optimizer
        assert [reference() for reference in watched] == [None, None]
    finally:
        gc.enable()


FIRST_USE = """
import gc, weakref, torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
def use():
    module = torch.nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=1.0).build(module)
    watched = weakref.ref(optimizer), weakref.ref(module)
    gc.disable()
    del module, optimizer
    assert [reference() for reference in watched] == [None, None]
use()
"""


def test_the_first_use_of_a_factory_keeps_no_local_variable_alive():
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True)


@pytest.mark.parametrize("options", [{}, {"use_cautious_optimizer": True}])
@pytest.mark.parametrize("key", ["adamw", "asgd"])  # with a kernel and without one
def test_the_first_step_alone_looks_for_parameters_that_were_sharded_later(key, options):
    looks = []

    class Watched(nn.Linear):
        def named_parameters(self, *args, **options):
            looks.append(1)
            return super().named_parameters(*args, **options)

    model = Watched(2, 1)
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**options).build(model)
    model(torch.ones(1, 2)).sum().backward()
    looks.clear()
    for _ in range(3):
        optimizer.step()
    assert len(looks) == 1


def test_a_class_is_scheduled_once():
    assert scheduled(torch.optim.SGD) is scheduled(torch.optim.SGD)
    assert scheduled(AdamWWithWarmupCosine) is AdamWWithWarmupCosine


def test_constant_is_the_schedule_of_an_optimizer_without_one():
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=3e-4).build(nn.Linear(4, 2))
    assert optimizer.scheduler.schedule == Constant()
    assert optimizer.scheduler.get_last_lr() == [3e-4]


def test_one_scaler_for_several_optimizers_skips_only_the_one_that_overflowed():
    modules = [nn.Linear(4, 2) for _ in range(2)]
    optimizers = [ours(module, fused=fused) for module, fused in zip(modules, (True, False), strict=True)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflowing in (None, 0, 1, None):
        for module in modules:
            scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
        if overflowing is not None:
            modules[overflowing].weight.grad[0, 0] = math.inf
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
    assert [optimizer.scheduler.last_epoch for optimizer in optimizers] == [3, 3]


def test_accumulated_gradients_are_one_update_also_in_a_short_last_window():
    module = nn.Linear(4, 2)
    optimizer = ours(module)
    for index in range(7):
        backward(module)
        if index % 3 == 2 or index == 6:
            optimizer.step()
            optimizer.zero_grad()
    assert optimizer.scheduler.last_epoch == 3


@pytest.mark.parametrize("done", [0, 3])
def test_distributed_checkpoints_state_functions_round_trip(done):
    module = nn.Linear(4, 2)
    optimizer = ours(module)
    for _ in range(done):
        backward(module)
        optimizer.step()
        optimizer.zero_grad()
    for _ in range(2):  # repeated, it changes nothing either
        state = copy.deepcopy(get_optimizer_state_dict(module, optimizer))  # it holds the very tensors
    twin = nn.Linear(4, 2)
    twin.load_state_dict(module.state_dict())
    other = ours(twin)
    set_optimizer_state_dict(twin, other, state)
    assert other.scheduler.last_epoch == optimizer.scheduler.last_epoch == done
    for _ in range(5):
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for one, its in ((module, optimizer), (twin, other)):
            backward(one)
            its.step()
            its.zero_grad()
    assert torch.equal(module.weight, twin.weight)


def test_a_real_schedulers_state_gives_the_position():
    theirs = torch.optim.AdamW(nn.Linear(4, 2).parameters())
    scheduler = LambdaLR(theirs, lambda k: 1.0)
    for _ in range(4):
        theirs.step()
        scheduler.step()
    optimizer = ours(nn.Linear(4, 2))
    state = {**optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    optimizer.load_state_dict(state)
    assert optimizer.scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == WarmupCosineDecay(**CURVE).lr_at(4)
