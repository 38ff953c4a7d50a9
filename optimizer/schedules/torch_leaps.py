"""Moves PyTorch's schedulers by many steps at once, bit for bit as single steps do."""

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.optim.swa_utils import SWALR

MANY = 10_000_000
"""Changes of the lr whose computation takes some seconds."""

QUICK = 1_000_000
"""Changes of the lr whose computation takes about a second."""

FEW = 10_000
"""Steps of a PyTorch scheduler that take about 0.1 s."""


class CosineAnnealingThenHold(CosineAnnealingLR):
    """CosineAnnealingLR up to T_max. After T_max, where PyTorch's lr rises again, the lr holds."""

    def get_lr(self) -> list[Any]:
        if self.last_epoch > self.T_max:
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()


class _Rule(NamedTuple):
    """How a scheduler changes the lr that it finds.

    Attributes:
        steps: Function of the scheduler and a later position. Returns the positions up to it at which the lr changes.
        lr: Function of the scheduler, the lr before and a position. Returns the lr at that position.
    """

    steps: Callable[[Any, int], Sequence[int]]
    lr: Callable[[Any, float, int], float]


def _every(scheduler: Any, last: int) -> Sequence[int]:
    return range(scheduler.last_epoch + 1, last + 1)


def _up_to(field: str) -> Callable[[Any, int], Sequence[int]]:
    return lambda scheduler, last: range(scheduler.last_epoch + 1, min(last, getattr(scheduler, field)) + 1)


def _linear(scheduler: Any, lr: float, step: int) -> float:
    first, rise = scheduler.start_factor, scheduler.end_factor - scheduler.start_factor
    return float(lr * (1.0 + rise / (scheduler.total_iters * first + (step - 1) * rise)))


def _polynomial(scheduler: Any, lr: float, step: int) -> float:
    total = scheduler.total_iters
    return float(lr * ((1.0 - step / total) / (1.0 - (step - 1) / total)) ** scheduler.power)


def _cosine(scheduler: Any, lr: float, step: int) -> float:
    t_max, low = scheduler.T_max, scheduler.eta_min
    now, before = (1 + math.cos(math.pi * at / t_max) for at in (step, step - 1))
    return float(now / before * (lr - low) + low)


_RULES: dict[type[LRScheduler], _Rule] = {
    lr_scheduler.StepLR: _Rule(
        lambda s, last: range((s.last_epoch // s.step_size + 1) * s.step_size, last + 1, s.step_size),
        lambda s, lr, step: lr * s.gamma,
    ),
    lr_scheduler.MultiStepLR: _Rule(
        lambda s, last: sorted(step for step in s.milestones if s.last_epoch < step <= last),
        lambda s, lr, step: lr * s.gamma ** s.milestones[step],
    ),
    lr_scheduler.ConstantLR: _Rule(
        lambda s, last: [s.total_iters] if s.last_epoch < s.total_iters <= last else [],
        lambda s, lr, step: lr * (1.0 / s.factor),
    ),
    lr_scheduler.LinearLR: _Rule(_up_to("total_iters"), _linear),
    lr_scheduler.PolynomialLR: _Rule(_up_to("total_iters"), _polynomial),
    lr_scheduler.ExponentialLR: _Rule(_every, lambda s, lr, step: lr * s.gamma),
    lr_scheduler.MultiplicativeLR: _Rule(_every, lambda s, lr, step: lr * s.lr_lambdas[0](step)),
    CosineAnnealingThenHold: _Rule(_up_to("T_max"), _cosine),
}


def _move_before(scheduler: Any, last: int) -> None:
    scheduler.last_epoch = last - 1


def _move_before_in_cycle(scheduler: Any, last: int) -> None:
    position, length = last - 1, scheduler.T_0
    scheduler.last_epoch = position
    if scheduler.T_mult == 1:
        position %= length
    while position >= length:
        position, length = position - length, length * scheduler.T_mult
    scheduler.T_cur, scheduler.T_i = position, length


_FREE: dict[type[LRScheduler], Callable[[Any, int], None]] = {
    lr_scheduler.LambdaLR: _move_before,
    lr_scheduler.CyclicLR: _move_before,
    lr_scheduler.CosineAnnealingWarmRestarts: _move_before_in_cycle,
}
"""Schedulers whose lr depends on the position alone, each with a function that moves it to one step before."""


def can_leap(scheduler: Any) -> bool:
    """Return whether `leap` can move `scheduler`. A class of another library must be stepped."""
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        return all(can_leap(child) for child in scheduler._schedulers)
    return type(scheduler) is SWALR or all(type(leaf) in _RULES or type(leaf) in _FREE for leaf in _leaves(scheduler))


def quick_reach(scheduler: Any) -> int | None:
    """Return the position that a new `scheduler` reaches in about a second; None if it reaches every position.

    `scheduler` must not hold other schedulers.
    """
    if type(scheduler) is SWALR:
        return None if scheduler.anneal_epochs < FEW else FEW
    if type(scheduler) in _FREE:
        return None
    changes = _RULES[type(scheduler)].steps(scheduler, sys.maxsize - 1)
    return None if len(changes) < QUICK else changes[QUICK - 1]


def leap(scheduler: Any, steps: int) -> None:
    """Move `scheduler`, over an optimizer with one group, by `steps`.

    Args:
        scheduler: A scheduler for which `can_leap` is true. A sequence must not hold a sequence or a chain, and a chain
            must not hold a sequence.
        steps: Number of steps, >= 0.
    """
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        _leap_in_turn(scheduler, steps)
    elif type(scheduler) is SWALR:
        _leap_averaging(scheduler, steps)
    elif steps:
        _leap(_leaves(scheduler), steps)


def _leap(leaves: Sequence[Any], steps: int) -> None:
    last = leaves[0].last_epoch + steps
    group = leaves[0].optimizer.param_groups[0]
    free = max((index for index, leaf in enumerate(leaves) if type(leaf) in _FREE), default=-1)
    if free < 0:
        group["lr"] = _walked(leaves, group["lr"], last)
    for index, leaf in enumerate(leaves):
        if type(leaf) in _FREE:
            _FREE[type(leaf)](leaf, last)
            leaf.step()
            continue
        if index > free >= 0 and last in _RULES[type(leaf)].steps(leaf, last):
            group["lr"] = _RULES[type(leaf)].lr(leaf, group["lr"], last)
        leaf.last_epoch = last
        leaf._step_count += steps


def _walked(leaves: Sequence[Any], lr: float, last: int) -> float:
    """Return the lr at `last` of schedulers that all change the lr that they find."""
    rules = [(leaf, _RULES[type(leaf)]) for leaf in leaves]
    longest = max(len(rule.steps(leaf, last)) for leaf, rule in rules)
    if longest > MANY:
        name = type(leaves[0]).__name__
        warnings.warn(f"{name}: {longest} changes of the lr are computed, which takes a while", stacklevel=2)
    if len(rules) == 1:
        ((leaf, rule),) = rules
        for step in rule.steps(leaf, last):
            lr = rule.lr(leaf, lr, step)
        return lr
    parts = [(rule.steps(leaf, last), rule.lr, leaf) for leaf, rule in rules]
    for step in range(leaves[0].last_epoch + 1, last + 1):
        for steps, lr_of, leaf in parts:
            if step in steps:
                lr = lr_of(leaf, lr, step)
    return lr


def _leaves(scheduler: Any) -> list[Any]:
    if not isinstance(scheduler, lr_scheduler.ChainedScheduler):
        return [scheduler]
    return [leaf for child in scheduler._schedulers for leaf in _leaves(child)]


def _leap_in_turn(scheduler: Any, steps: int) -> None:
    end = scheduler.last_epoch + steps
    while scheduler.last_epoch < end:
        turn = sum(start <= scheduler.last_epoch for start in scheduler._milestones)
        ahead = [start - 1 for start in scheduler._milestones[turn : turn + 1] if start <= end]
        stop = ahead[0] if ahead else end
        leap(scheduler._schedulers[turn], stop - scheduler.last_epoch)
        scheduler.last_epoch = stop
        if ahead:
            scheduler.step()  # to the milestone, where PyTorch starts the next scheduler


def _leap_averaging(scheduler: Any, steps: int) -> None:
    while steps and scheduler._step_count - 2 < scheduler.anneal_epochs:
        scheduler.step()
        steps -= 1
    scheduler.last_epoch += steps  # the lr is swa_lr from here on
    scheduler._step_count += steps
