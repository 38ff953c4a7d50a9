"""PyTorch's schedulers of schedulers, also nested in ways that its own objects step wrongly."""

from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from .base import SCHEDULE_REGISTRY, Schedule
from .composition import Chain, Sequence, active_indices
from .curve import Curve
from .durations import Duration, all_resolved
from .torch_leaps import QUICK_CHANGES
from .torch_schedule import TorchCurve, TorchSchedule

CONTINUING = {lr_scheduler.MultiplicativeLR, SWALR}
"""In a sequence these start from the lr that they find; all others start from the optimizer's lr."""


class TorchComposite(TorchSchedule):
    """Base of PyTorch's two schedulers of schedulers.

    PyTorch steps some nestings wrongly: a sequence around another sequence or a chain, and a chain around a sequence
    (pytorch#196243). For these, each scheduler inside runs as a separate object, and this class combines their values.
    """

    schedulers: list[Any]

    def moves_momentum(self) -> bool:
        return any(inner.moves_momentum() for inner in self.schedulers)

    def summary(self) -> str:
        return ", ".join([super().summary(), *(f"[{inner.summary()}]" for inner in self.schedulers)])

    def quick_reach(self) -> int | None:
        return Schedule.quick_reach(self)


class TorchChain(TorchComposite):
    """Base of ChainedScheduler."""

    def make(self, optimizer: Optimizer) -> LRScheduler:
        return lr_scheduler.ChainedScheduler([inner.make(optimizer) for inner in self.schedulers], optimizer)

    def new_curve(self) -> Curve:
        if not self.holds_sequence():
            return TorchCurve(self)
        lr = self.initial_lr or 1.0
        return Chain(schedules=[inner.with_base_lr(lr) for inner in self.schedulers], initial_lr=lr).new_curve()

    def quick_reach(self) -> int | None:
        every_step = QUICK_CHANGES * self.step_length()  # a chain computes each step
        return min(super().quick_reach() or QUICK_CHANGES, every_step)

    def holds_sequence(self) -> bool:
        """Return whether a SequentialLR is inside, at any depth."""
        chains = [inner for inner in self.schedulers if isinstance(inner, TorchChain)]
        return any(isinstance(inner, TorchSequence) for inner in self.schedulers) or any(
            chain.holds_sequence() for chain in chains
        )


class TorchSequence(TorchComposite):
    """Base of SequentialLR. A scheduler without updates (milestones that start with 0, or are equal) is skipped."""

    milestones: list[Duration]

    def check_values(self) -> None:
        given, schedulers = len(self.milestones), len(self.schedulers)
        if given != schedulers - 1:
            self.refuse("milestones", f"must be one less than the schedulers; got {given} for {schedulers} schedulers")
        if all_resolved(*self.milestones) and self.milestones != sorted(self.milestones):
            self.refuse("milestones", f"must rise; got {self.milestones}")

    def make(self, optimizer: Optimizer) -> LRScheduler:
        schedulers, milestones = self._active_schedulers()
        return lr_scheduler.SequentialLR(optimizer, [inner.make(optimizer) for inner in schedulers], milestones)

    def new_curve(self) -> Curve:
        schedulers, milestones = self._active_schedulers()
        if not any(isinstance(inner, TorchComposite) for inner in schedulers):
            return TorchCurve(self)
        hold: Any = SCHEDULE_REGISTRY["ConstantLR"]
        lr = self.initial_lr or 1.0
        bound, starts = [schedulers[0].with_base_lr(lr)], [0]
        for inner, start in zip(schedulers[1:], milestones, strict=True):
            if inner.scheduler_class in CONTINUING:
                # Paired from one update earlier, so that PyTorch itself steps over the join.
                lr_before = bound[-1].lr_at(start - 1 - starts[-1])
                pair = type(self)(schedulers=[hold(factor=1.0), inner], milestones=[1])
                bound.append(pair.model_copy(update={"initial_lr": lr_before}))
                starts.append(start - 1)
            else:
                bound.append(inner.with_base_lr(lr))
                starts.append(start)
        return Sequence(schedules=bound, milestones=starts[1:], initial_lr=lr).new_curve()

    def _active_schedulers(self) -> tuple[list[TorchSchedule], list[int]]:
        """Return the schedulers that have updates, and the milestones between them."""
        starts, active = [0, *self.milestones], active_indices(self.milestones)
        return [self.schedulers[index] for index in active], [starts[index] for index in active[1:]]
