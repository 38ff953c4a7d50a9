"""The checks of an optimizer with a schedule inside: each raises if one of the library's invariants is broken."""

import copy
import gc
import io
import pickle
import weakref

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..config.messages import counted
from ..scheduling.read_only import ReadOnlyScheduler
from ..state.named import named_state
from ..state.named_loading import load_named_state
from ..types import INITIAL, POSITION, SwitchesWeights
from .harness import HALF, HORIZON, BuiltOptimizer, Harness, equal_weights, expect, lrs, weights


def builds_an_optimizer_with_a_scheduler_inside(harness: Harness) -> None:
    _, optimizer = harness.pair()
    expect(isinstance(optimizer, Optimizer), f"build returns a {type(optimizer).__name__}")
    expect(optimizer.scheduler.last_epoch == 0, "its scheduler.last_epoch is not 0")


def an_update_counts_once(harness: Harness) -> None:
    module, optimizer = harness.pair()
    for step in range(HORIZON.total_steps + 3):  # beyond its end too
        expect(
            optimizer.scheduler.last_epoch == step, f"{optimizer.scheduler.last_epoch} after {counted(step, 'update')}"
        )
        reported = optimizer.scheduler.get_last_lr()
        expect(reported == lrs(optimizer), f"get_last_lr() is {reported} at update {step}: {lrs(optimizer)}")
        harness.update(module, optimizer, step)


def closures_are_taken(harness: Harness) -> None:
    (module, optimizer), (other, twin) = harness.pair(), harness.pair()
    for step in range(3):
        harness.update(module, optimizer, step, with_closure=True)
        harness.update(other, twin, step)
    expect(equal_weights(module, weights(other)), "the weights differ from those of a plain backward pass")
    expect(optimizer.scheduler.last_epoch == 3, f"{optimizer.scheduler.last_epoch} updates are counted of 3")


def step_hooks_fire_once_and_see_the_lr_of_the_update(harness: Harness) -> None:
    module, optimizer = harness.pair()
    base = next(cls for cls in type(optimizer).__mro__ if cls.__module__.startswith("torch.optim"))
    if base not in (Optimizer, LBFGS):  # so that torch also hooks the step of the base class
        base([torch.zeros(2, 2, requires_grad=True)])
    seen: list[float] = []
    used = lrs(optimizer)[0]

    def see(stepped: object, *_: object) -> None:
        if stepped is optimizer:
            seen.append(lrs(optimizer)[0])

    optimizer.register_step_pre_hook(see)
    optimizer.register_step_post_hook(see)
    handle = register_optimizer_step_post_hook(see)
    harness.update(module, optimizer, 0)
    handle.remove()
    expect(seen == [used] * 3, f"a pre, a post and a global post hook saw the lrs {seen} of an update at {used}")


def a_skipped_step_moves_nothing(harness: Harness) -> None:
    pairs = [harness.pair(), harness.pair()]
    if _closure_only(pairs[0][1]):
        return  # torch's scaler supports neither
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for module, _ in pairs:
        scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
    next(p for p in pairs[0][0].parameters() if p.grad is not None).grad.fill_(torch.inf)  # type: ignore[union-attr]  # it has one
    before = weights(pairs[0][0])
    for _, optimizer in pairs:
        scaler.step(optimizer)
    scaler.update()
    positions = [optimizer.scheduler.last_epoch for _, optimizer in pairs]
    expect(equal_weights(pairs[0][0], before), "the weights moved")
    expect(positions == [0, 1], f"the step of the first of two optimizers is skipped; their positions are {positions}")


def a_tools_dry_step_moves_nothing(harness: Harness) -> None:
    module, optimizer = harness.pair()
    if _closure_only(optimizer):
        return  # torch's distributed checkpoint supports neither
    from torch.distributed.checkpoint import state_dict as tool  # slow to import

    before = weights(module)
    for _ in range(2):
        tool.get_optimizer_state_dict(module, optimizer)
    expect(equal_weights(module, before), "the weights moved")
    expect(optimizer.scheduler.last_epoch == 0, "the schedule moved")


def distributed_checkpoint_round_trips(harness: Harness) -> None:
    module, optimizer = harness.pair(HALF)
    if _closure_only(optimizer):
        return
    from torch.distributed.checkpoint import state_dict as tool

    twin, second = harness.pair()
    twin.load_state_dict(module.state_dict())
    tool.set_optimizer_state_dict(twin, second, copy.deepcopy(tool.get_optimizer_state_dict(module, optimizer)))
    harness.expect_same_continuation((module, optimizer), (twin, second))


def saving_leaves_no_trace(harness: Harness) -> None:
    (module, optimizer), (other, twin) = harness.pair(), harness.pair()
    for step in range(HALF):
        harness.update(module, optimizer, step)
        harness.update(other, twin, step)
        optimizer.state_dict()
        named_state(optimizer)
    expect(equal_weights(module, weights(other)), "the weights differ from those of a run that was not saved")


def a_loaded_state_continues_bit_for_bit(harness: Harness) -> None:
    module, optimizer = harness.pair(HALF)
    switched = isinstance(optimizer, SwitchesWeights)
    if switched:
        optimizer.eval()  # such optimizers are saved in eval mode; a loaded one needs no call of train()
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    twin, second = harness.pair()
    twin.load_state_dict(module.state_dict())
    second.load_state_dict(torch.load(saved, weights_only=True))
    if switched:
        optimizer.train()
    harness.expect_same_continuation((module, optimizer), (twin, second))


def state_by_name_continues_bit_for_bit(harness: Harness) -> None:
    module, optimizer = harness.pair(HALF)
    twin, second = harness.pair()
    twin.load_state_dict(module.state_dict())
    load_named_state(second, copy.deepcopy(named_state(optimizer)))
    harness.expect_same_continuation((module, optimizer), (twin, second))


def copies_continue_bit_for_bit(harness: Harness) -> None:
    harness.expect_same_continuation(harness.pair(HALF), copy.deepcopy(harness.pair(HALF)))
    harness.expect_same_continuation(harness.pair(HALF), pickle.loads(pickle.dumps(harness.pair(HALF))))


def a_tool_that_keeps_only_the_groups_keeps_the_position(harness: Harness) -> None:
    state = harness.pair(HALF)[1].state_dict()
    _, fresh = harness.pair()
    fresh.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    expect(fresh.scheduler.last_epoch == HALF, f"{fresh.scheduler.last_epoch} in place of {HALF}")


def a_state_without_a_position_is_refused_unless_not_strict(harness: Harness) -> None:
    state = harness.pair(HALF)[1].state_dict()
    groups = [
        {name: value for name, value in group.items() if name != POSITION and not name.startswith(INITIAL)}
        for group in state["param_groups"]
    ]
    plain = {"state": state["state"], "param_groups": groups}
    _, fresh = harness.pair(2)
    try:
        fresh.load_state_dict(copy.deepcopy(plain))
    except ValueError:
        pass
    else:
        raise AssertionError("it was loaded without an error")
    fresh.load_state_dict(copy.deepcopy(plain), strict=False)
    expect(fresh.scheduler.last_epoch == 2, f"strict=False: the schedule went to {fresh.scheduler.last_epoch} from 2")
    fresh.load_state_dict({**plain, "scheduler": {"last_epoch": HALF, "base_lrs": [1.0]}})  # as an LRScheduler's state
    expect(fresh.scheduler.last_epoch == HALF, "a torch scheduler's last_epoch was not taken")


def an_lr_set_by_hand_holds_for_one_update(harness: Harness) -> None:
    (module, optimizer), (other, untouched) = harness.pair(2), harness.pair(2)
    optimizer.param_groups[0]["lr"] *= 0.5
    harness.update(module, optimizer, 2)
    harness.update(other, untouched, 2)
    expect(lrs(optimizer) == lrs(untouched), f"after it the lr is {lrs(optimizer)[0]}, not {lrs(untouched)[0]}")


def a_late_group_joins_the_schedule(harness: Harness) -> None:
    module, optimizer = harness.pair(HALF)
    if isinstance(optimizer, LBFGS):
        return  # it has one group only
    late = nn.Parameter(torch.ones(2, 2))
    named = "param_names" in optimizer.param_groups[0]
    base = optimizer.scheduler.base_lrs[0]
    optimizer.add_param_group({"params": [("late", late) if named else late], "lr": base / 2})
    for step in range(HALF, 2 * HALF):
        first, *_, last = lrs(optimizer)
        expect(abs(last - first / 2) <= 1e-12 * first, f"half the lr of {first} is {last} at update {step}")
        harness.update(module, optimizer, step)


def a_second_scheduler_is_refused(harness: Harness) -> None:
    _, optimizer = harness.pair()
    try:
        LambdaLR(optimizer, lambda _: 1.0)
    except RuntimeError:
        return
    raise AssertionError("one could be attached")


def a_read_only_scheduler_reports_the_lr_and_moves_nothing(harness: Harness) -> None:
    _, optimizer = harness.pair(2)
    read_only = ReadOnlyScheduler(optimizer)
    before = lrs(optimizer)
    read_only.step()
    expect(read_only.get_last_lr() == before == lrs(optimizer), f"{read_only.get_last_lr()} for {before}")
    expect(optimizer.scheduler.last_epoch == 2, "its step() moved the schedule")


def no_model_is_kept_alive(harness: Harness) -> None:
    module, optimizer = harness.pair(1)
    watched = weakref.ref(optimizer), weakref.ref(module)
    gc.disable()
    del module, optimizer
    gone = all(reference() is None for reference in watched)
    gc.enable()
    expect(gone, "a reference cycle holds it")


CHECKS = (
    builds_an_optimizer_with_a_scheduler_inside,
    an_update_counts_once,
    closures_are_taken,
    step_hooks_fire_once_and_see_the_lr_of_the_update,
    a_skipped_step_moves_nothing,
    a_tools_dry_step_moves_nothing,
    distributed_checkpoint_round_trips,
    saving_leaves_no_trace,
    a_loaded_state_continues_bit_for_bit,
    state_by_name_continues_bit_for_bit,
    copies_continue_bit_for_bit,
    a_tool_that_keeps_only_the_groups_keeps_the_position,
    a_state_without_a_position_is_refused_unless_not_strict,
    an_lr_set_by_hand_holds_for_one_update,
    a_late_group_joins_the_schedule,
    a_second_scheduler_is_refused,
    a_read_only_scheduler_reports_the_lr_and_moves_nothing,
    no_model_is_kept_alive,
)


def _closure_only(optimizer: BuiltOptimizer) -> bool:
    return isinstance(optimizer, LBFGS | SparseAdam)
