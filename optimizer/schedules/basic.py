"""The schedules that innerstep brings."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ..config.messages import counted
from ..config.validation import Config, Fraction, NonNegativeNumber, PositiveCount, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, RunLength, known
from .horizon import Horizon


@SCHEDULE_REGISTRY.register("constant")
class Constant(Schedule):
    """Every group keeps its own lr."""

    absolute: ClassVar[bool] = False

    def lr_at(self, update: int) -> float:
        return 1.0

    def summary(self) -> str:
        return "-"


class WarmupCosineFields(Config):
    """The fields of the linear warm-up and cosine decay, shared by the schedule and the optimizer key."""

    peak_lr: PositiveNumber
    """The highest lr, at update `warmup_steps`."""
    start_lr: NonNegativeNumber = 0.0
    """The lr of update 0."""
    end_lr: NonNegativeNumber = 0.0
    """The lr of update `total_steps - 1` and of every later one."""
    total_steps: RunLength = None
    """Updates until `end_lr`; left out, or auto: the length of the run."""
    warmup_steps: Length = 0
    """Updates of the linear warm-up; 0 starts at `peak_lr`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in ("start_lr", "end_lr"):
            if getattr(self, name) > self.peak_lr:
                self.refuse(name, f"must be <= peak_lr; got {getattr(self, name)} with peak_lr {self.peak_lr}")
        ready = known(self.total_steps, self.warmup_steps)
        if ready and self.total_steps is not None and self.warmup_steps >= self.total_steps:
            self.refuse(
                "warmup_steps",
                f"must be < total_steps; got {self.warmup_steps} with total_steps {self.total_steps}."
                " Lower it or train longer.",
            )
        return self


@SCHEDULE_REGISTRY.register("warmup_cosine_decay")
class WarmupCosineDecay(WarmupCosineFields, Schedule):
    """Linear from start_lr to peak_lr, then half a cosine to end_lr, then end_lr.

    lr(0) = start_lr, lr(warmup_steps) = peak_lr, lr(total_steps - 1) = end_lr. Where the last two meet
    (warmup_steps = total_steps - 1) the update runs at peak_lr. The cosine is that of Loshchilov &
    Hutter 2017 (arXiv:1608.03983), without restarts.
    """

    absolute: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "total_steps"

    def lr_at(self, update: int) -> float:
        last = self._last
        if update < self.warmup_steps:
            return self.start_lr + (self.peak_lr - self.start_lr) * (update / self.warmup_steps)
        if update == self.warmup_steps:
            return self.peak_lr
        if update >= last:
            return self.end_lr
        progress = (update - self.warmup_steps) / (last - self.warmup_steps)
        return self.end_lr + (self.peak_lr - self.end_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def summary(self) -> str:
        rise = f"{short(self.start_lr)} ↗ " if self.warmup_steps else ""
        return f"{rise}{short(self.peak_lr)} ({self.warmup_steps}) ↘ {short(self.end_lr)} ({self.total_steps})"

    @property
    def _last(self) -> int:
        if self.total_steps is None:
            raise ValueError("total_steps is not known yet: call resolved(horizon) first")
        return self.total_steps - 1


class OneCycleFields(Config):
    """The fields of the 1cycle policy, named as in torch.optim.lr_scheduler.OneCycleLR."""

    max_lr: PositiveNumber
    """The highest lr."""
    total_steps: RunLength = None
    """Updates in the cycle; left out, `epochs` x `steps_per_epoch`, or the length of the run."""
    epochs: PositiveCount | None = None
    """With `steps_per_epoch` (the data's, if left out) another way to give `total_steps`."""
    steps_per_epoch: PositiveCount | None = None
    """Updates in an epoch."""
    pct_start: Fraction = 0.3
    """The share of the cycle spent on the rise."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """The shape of rise and fall."""
    cycle_momentum: bool = True
    """Whether momentum (beta1) moves against the lr."""
    base_momentum: Fraction = 0.85
    """Momentum where the lr is highest."""
    max_momentum: Fraction = 0.95
    """Momentum where the lr is lowest."""
    div_factor: PositiveNumber = 25.0
    """The first lr is max_lr / div_factor."""
    final_div_factor: PositiveNumber = 1e4
    """The last lr is max_lr / div_factor / final_div_factor."""
    three_phase: bool = False
    """Whether the fall first mirrors the rise and only then goes to the last lr."""

    @model_validator(mode="after")
    def _check_phases(self) -> Self:
        if self.total_steps is not None and self.epochs is not None:
            self.refuse("epochs", f"give total_steps or epochs, not both; got {self.total_steps} and {self.epochs}")
        if self.total_steps is not None and known(self.total_steps) and self.pct_start * self.total_steps == 1.0:
            # PyTorch divides by the length of the rise less one update.
            self.refuse(
                "pct_start",
                f"must not make the rise exactly one update long; got {self.pct_start}"
                f" of {counted(self.total_steps, 'update')}",
            )
        return self


@SCHEDULE_REGISTRY.register("one_cycle", aliases=("OneCycleLR",))
class OneCycle(OneCycleFields, Schedule):
    """PyTorch's OneCycleLR, bit for bit. Past its end, where that class raises, the last value holds.

    Source: Smith & Topin 2018 (arXiv:1708.07120), in the form of torch.optim.lr_scheduler.OneCycleLR.
    """

    absolute: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "total_steps"

    def lr_at(self, update: int) -> float:
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        return self._between(
            update, [first, self.max_lr, first, last] if self.three_phase else [first, self.max_lr, last]
        )

    def moves_momentum(self) -> bool:
        return self.cycle_momentum

    def momentum_at(self, update: int) -> float | None:
        if not self.cycle_momentum:
            return None
        corners = [self.max_momentum, self.base_momentum, self.max_momentum]
        return self._between(update, [*corners, self.max_momentum] if self.three_phase else corners)

    def resolved(self, horizon: Horizon | None) -> Self:
        if self.epochs is None:
            return super().resolved(horizon)
        per_epoch = self.steps_per_epoch or (horizon.steps_per_epoch if horizon else None)
        if per_epoch is None:
            self.refuse("steps_per_epoch", "not given, and there is no horizon to take it from; epochs needs it")
        steps = -(-self.epochs * per_epoch // self.pace(horizon))
        return self.replaced(total_steps=steps, epochs=None).resolved(horizon)

    def summary(self) -> str:
        first = self.max_lr / self.div_factor
        peak = round(self.pct_start * self.total_steps) - 1 if self.total_steps else f"{self.pct_start:.0%}"
        last = first / self.final_div_factor
        return f"{short(first)} ↗ {short(self.max_lr)} ({peak}) ↘ {short(last)} ({self.total_steps})"

    def _between(self, update: int, corners: Sequence[float]) -> float:
        """Return the value at `update` between `corners`: the values at the start, and at the end of each phase.

        The operations and their order are those of PyTorch's class, so that the bits are too.
        """
        if self.total_steps is None:
            raise ValueError("total_steps is not known yet: call resolved(horizon) first")
        share, last = self.pct_start * self.total_steps, self.total_steps - 1
        ends = [share - 1, 2 * share - 2, last] if self.three_phase else [share - 1, last]
        update = min(update, last)
        phase = next((index for index, end in enumerate(ends) if update <= end), len(ends) - 1)
        begun = ends[phase - 1] if phase else 0.0
        progress = (update - begun) / (ends[phase] - begun)
        start, end = corners[phase], corners[phase + 1]
        if self.anneal_strategy == "linear":
            return (end - start) * progress + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)
