"""Moves PyTorch's schedulers by many steps at once, bit for bit as single steps do."""

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR
from torch.optim.swa_utils import SWALR

SLOW_CHANGES = 10_000_000
"""Changes of the lr whose computation takes some seconds."""

QUICK_CHANGES = 1_000_000
"""Changes of the lr whose computation takes about a second."""

QUICK_STEPS = 10_000
"""Steps of a PyTorch scheduler that take about 0.1 s."""


class CosineAnnealingThenHold(CosineAnnealingLR):
    """CosineAnnealingLR up to T_max. After T_max, where PyTorch's lr rises again, the lr holds."""

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch > self.T_max:
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()


class _ChangeRule(NamedTuple):
    """How a scheduler changes the lr that it finds.

    Attributes:
        steps: Function of the scheduler and a later position. Returns the positions up to it at which the lr changes.
        lr: Function of the scheduler, the lr before and a position. Returns the lr at that position.
    """

    steps: Callable[[Any, int], Sequence[int]]
    lr: Callable[[Any, float, int], float]


def _every_step(scheduler: LRScheduler, last: int) -> Sequence[int]:
    return range(scheduler.last_epoch + 1, last + 1)


def _steps_up_to(field: str) -> Callable[[LRScheduler, int], Sequence[int]]:
    return lambda scheduler, last: range(scheduler.last_epoch + 1, min(last, getattr(scheduler, field)) + 1)


def _linear_lr(scheduler: LinearLR, lr: float, step: int) -> float:
    first, rise = scheduler.start_factor, scheduler.end_factor - scheduler.start_factor
    return float(lr * (1.0 + rise / (scheduler.total_iters * first + (step - 1) * rise)))


def _polynomial_lr(scheduler: PolynomialLR, lr: float, step: int) -> float:
    total = scheduler.total_iters
    return float(lr * ((1.0 - step / total) / (1.0 - (step - 1) / total)) ** scheduler.power)


def _cosine_lr(scheduler: CosineAnnealingLR, lr: float, step: int) -> float:
    t_max, low = scheduler.T_max, scheduler.eta_min
    now, before = (1 + math.cos(math.pi * at / t_max) for at in (step, step - 1))
    return float(now / before * (lr - low) + low)


_CHANGE_RULES: dict[type[LRScheduler], _ChangeRule] = {
    lr_scheduler.StepLR: _ChangeRule(
        lambda s, last: range((s.last_epoch // s.step_size + 1) * s.step_size, last + 1, s.step_size),
        lambda s, lr, step: lr * s.gamma,
    ),
    lr_scheduler.MultiStepLR: _ChangeRule(
        lambda s, last: sorted(step for step in s.milestones if s.last_epoch < step <= last),
        lambda s, lr, step: lr * s.gamma ** s.milestones[step],
    ),
    lr_scheduler.ConstantLR: _ChangeRule(
        lambda s, last: [s.total_iters] if s.last_epoch < s.total_iters <= last else [],
        lambda s, lr, step: lr * (1.0 / s.factor),
    ),
    lr_scheduler.LinearLR: _ChangeRule(_steps_up_to("total_iters"), _linear_lr),
    lr_scheduler.PolynomialLR: _ChangeRule(_steps_up_to("total_iters"), _polynomial_lr),
    lr_scheduler.ExponentialLR: _ChangeRule(_every_step, lambda s, lr, step: lr * s.gamma),
    lr_scheduler.MultiplicativeLR: _ChangeRule(_every_step, lambda s, lr, step: lr * s.lr_lambdas[0](step)),
    CosineAnnealingThenHold: _ChangeRule(_steps_up_to("T_max"), _cosine_lr),
}


def _move_before(scheduler: LRScheduler, last: int) -> None:
    scheduler.last_epoch = last - 1


def _move_before_in_cycle(scheduler: lr_scheduler.CosineAnnealingWarmRestarts, last: int) -> None:
    position, length = last - 1, scheduler.T_0
    scheduler.last_epoch = position
    if scheduler.T_mult == 1:
        position %= length
    while position >= length:
        position, length = position - length, length * scheduler.T_mult
    scheduler.T_cur, scheduler.T_i = position, length


_BY_POSITION: dict[type[LRScheduler], Callable[[Any, int], None]] = {
    lr_scheduler.LambdaLR: _move_before,
    lr_scheduler.CyclicLR: _move_before,
    lr_scheduler.CosineAnnealingWarmRestarts: _move_before_in_cycle,
}
"""Schedulers whose lr depends on the position alone, each with a function that moves it to one step before."""


def can_leap(scheduler: LRScheduler) -> bool:
    """Return whether `leap` can move `scheduler`. A class of another library must be stepped."""
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        return all(can_leap(child) for child in scheduler._schedulers)
    return type(scheduler) is SWALR or all(
        type(leaf) in _CHANGE_RULES or type(leaf) in _BY_POSITION for leaf in _leaves(scheduler)
    )


def quick_reach(scheduler: LRScheduler) -> int | None:
    """Return the position that a new `scheduler` reaches in about a second; None if it reaches every position.

    `scheduler` must not hold other schedulers.
    """
    if type(scheduler) is SWALR:
        return None if scheduler.anneal_epochs < QUICK_STEPS else QUICK_STEPS
    if type(scheduler) in _BY_POSITION:
        return None
    changes = _CHANGE_RULES[type(scheduler)].steps(scheduler, sys.maxsize - 1)
    return None if len(changes) < QUICK_CHANGES else changes[QUICK_CHANGES - 1]


def leap(scheduler: LRScheduler, steps: int) -> None:
    """Move `scheduler`, over an optimizer with one group, by `steps`.

    Args:
        scheduler: A scheduler for which `can_leap` is true. A sequence must not hold a sequence or a chain, and a chain
            must not hold a sequence.
        steps: Number of steps, >= 0.
    """
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        _leap_sequence(scheduler, steps)
    elif type(scheduler) is SWALR:
        _leap_swa(scheduler, steps)
    elif steps:
        _leap_leaves(_leaves(scheduler), steps)


def _leap_leaves(leaves: Sequence[LRScheduler], steps: int) -> None:
    last = leaves[0].last_epoch + steps
    group = leaves[0].optimizer.param_groups[0]
    last_by_position = max((index for index, leaf in enumerate(leaves) if type(leaf) in _BY_POSITION), default=-1)
    if last_by_position < 0:
        group["lr"] = _lr_after_changes(leaves, group["lr"], last)
    for index, leaf in enumerate(leaves):
        if type(leaf) in _BY_POSITION:
            _BY_POSITION[type(leaf)](leaf, last)
            leaf.step()
            continue
        if index > last_by_position >= 0 and last in _CHANGE_RULES[type(leaf)].steps(leaf, last):
            group["lr"] = _CHANGE_RULES[type(leaf)].lr(leaf, group["lr"], last)
        leaf.last_epoch = last
        leaf._step_count += steps


def _lr_after_changes(leaves: Sequence[LRScheduler], lr: float, last: int) -> float:
    """Return the lr at step `last`. Each of `leaves` changes the lr that it finds."""
    rules = [(leaf, _CHANGE_RULES[type(leaf)]) for leaf in leaves]
    longest = max(len(rule.steps(leaf, last)) for leaf, rule in rules)
    if longest > SLOW_CHANGES:
        name = type(leaves[0]).__name__
        warnings.warn(f"{name}: {longest} changes of the lr are computed, which takes a while", stacklevel=2)
    if len(rules) == 1:
        ((leaf, rule),) = rules
        for step in rule.steps(leaf, last):
            lr = rule.lr(leaf, lr, step)
        return lr
    parts = [(rule.steps(leaf, last), rule.lr, leaf) for leaf, rule in rules]
    for step in range(leaves[0].last_epoch + 1, last + 1):
        for steps, lr_rule, leaf in parts:
            if step in steps:
                lr = lr_rule(leaf, lr, step)
    return lr


def _leaves(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers in a chain, at any depth; a scheduler that is not a chain stands alone."""
    if not isinstance(scheduler, lr_scheduler.ChainedScheduler):
        return [scheduler]
    return [leaf for child in scheduler._schedulers for leaf in _leaves(child)]


def _leap_sequence(scheduler: lr_scheduler.SequentialLR, steps: int) -> None:
    end = scheduler.last_epoch + steps
    while scheduler.last_epoch < end:
        turn = sum(start <= scheduler.last_epoch for start in scheduler._milestones)
        ahead = [start - 1 for start in scheduler._milestones[turn : turn + 1] if start <= end]
        stop = ahead[0] if ahead else end
        leap(scheduler._schedulers[turn], stop - scheduler.last_epoch)
        scheduler.last_epoch = stop
        if ahead:
            scheduler.step()  # to the milestone, where PyTorch starts the next scheduler


def _leap_swa(scheduler: SWALR, steps: int) -> None:
    while steps and scheduler._step_count - 2 < scheduler.anneal_epochs:
        scheduler.step()
        steps -= 1
    scheduler.last_epoch += steps  # the lr is swa_lr from here on
    scheduler._step_count += steps
