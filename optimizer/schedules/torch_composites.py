"""PyTorch's schedulers of schedulers, also nested in ways that its own objects step wrongly."""

from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from .base import SCHEDULE_REGISTRY, Schedule
from .composition import Chain, Sequence, turns
from .curve import Curve
from .durations import Length, all_resolved
from .torch_leaps import QUICK
from .torch_schedule import TorchCurve, TorchSchedule

GOING_ON = {lr_scheduler.MultiplicativeLR, SWALR}
"""In a sequence these start from the lr that they find, all others from the optimizer's lr."""


class TorchComposite(TorchSchedule):
    """Base of PyTorch's two schedulers of schedulers.

    PyTorch steps some nestings wrongly: a sequence around another sequence or a chain, and a chain around a sequence
    (pytorch#196243). For these, each scheduler inside runs as a separate object, and this class combines their values.
    """

    schedulers: list[Any]

    def moves_momentum(self) -> bool:
        return any(child.moves_momentum() for child in self.schedulers)

    def summary(self) -> str:
        return ", ".join([super().summary(), *(f"[{child.summary()}]" for child in self.schedulers)])

    def quick_reach(self) -> int | None:
        return Schedule.quick_reach(self)

    def parts(self) -> list[Schedule]:
        """Return the schedulers inside, each bound to the lr at which this one starts."""
        return [child.with_base_lr(self.initial_lr or 1.0) for child in self.schedulers]


class TorchChain(TorchComposite):
    """Base of ChainedScheduler."""

    def make(self, optimizer: Optimizer) -> LRScheduler:
        return lr_scheduler.ChainedScheduler([child.make(optimizer) for child in self.schedulers], optimizer)

    def new_curve(self) -> Curve:
        if not self.holds_sequence():
            return TorchCurve(self)
        return Chain(schedules=self.parts(), initial_lr=self.initial_lr or 1.0).new_curve()

    def quick_reach(self) -> int | None:
        return min(super().quick_reach() or QUICK, QUICK * self.step_length())  # a chain computes every update

    def holds_sequence(self) -> bool:
        """Return whether a SequentialLR is inside, at any depth."""
        chains = [child for child in self.schedulers if isinstance(child, TorchChain)]
        return any(isinstance(child, TorchSequence) for child in self.schedulers) or any(
            chain.holds_sequence() for chain in chains
        )


class TorchSequence(TorchComposite):
    """Base of SequentialLR. A scheduler without updates (milestones that start with 0, or are equal) is skipped."""

    milestones: list[Length]

    def check_values(self) -> None:
        given, parts = len(self.milestones), len(self.schedulers)
        if given != parts - 1:
            self.refuse("milestones", f"must be one less than the schedulers; got {given} for {parts} schedulers")
        if all_resolved(*self.milestones) and self.milestones != sorted(self.milestones):
            self.refuse("milestones", f"must rise; got {self.milestones}")

    def make(self, optimizer: Optimizer) -> LRScheduler:
        parts, milestones = self._turns()
        return lr_scheduler.SequentialLR(optimizer, [part.make(optimizer) for part in parts], milestones)

    def new_curve(self) -> Curve:
        parts, milestones = self._turns()
        if not any(isinstance(part, TorchComposite) for part in parts):
            return TorchCurve(self)
        hold: Any = SCHEDULE_REGISTRY["ConstantLR"]
        lr = self.initial_lr or 1.0
        placed, begins = [parts[0].with_base_lr(lr)], [0]
        for part, start in zip(parts[1:], milestones, strict=True):
            if (
                part.scheduler_class in GOING_ON
            ):  # paired from one update earlier, so that PyTorch itself steps over the join
                lr_before = placed[-1].lr_at(start - 1 - begins[-1])
                pair = type(self)(schedulers=[hold(factor=1.0), part], milestones=[1])
                placed.append(pair.model_copy(update={"initial_lr": lr_before}))
                begins.append(start - 1)
            else:
                placed.append(part.with_base_lr(lr))
                begins.append(start)
        return Sequence(schedules=placed, milestones=begins[1:], initial_lr=lr).new_curve()

    def _turns(self) -> tuple[list[TorchSchedule], list[int]]:
        """Return the schedulers that have updates, and the milestones between them."""
        starts, having = [0, *self.milestones], turns(self.milestones)
        return [self.schedulers[turn] for turn in having], [starts[turn] for turn in having[1:]]
