"""innerstep's own curves: a constant, a warm-up with a cosine decay, and the 1cycle policy."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ..config.fields import Fraction, NonNegativeNumber, PositiveCount, PositiveNumber
from ..config.messages import counted
from ..config.validation import Config
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Duration, RunLength, all_resolved
from .horizon import Horizon


@SCHEDULE_REGISTRY.register("constant")
class Constant(Schedule):
    """A factor of 1: every parameter group keeps its own lr.

    Formula:
        factor(k) = 1.

    Source: `constant` in diffusers.optimization and transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["constant"]()
        >>> [schedule.lr_at(k) for k in (0, 1, 1000)]
        [1.0, 1.0, 1.0]
    """

    absolute: ClassVar[bool] = False

    def lr_at(self, update: int) -> float:
        return 1.0

    def summary(self) -> str:
        return "-"


class WarmupCosineFields(Config):
    """Fields of the linear warm-up and cosine decay, shared by the schedule and the optimizer key."""

    peak_lr: PositiveNumber
    """The highest lr, reached at update `warmup_steps`."""
    start_lr: NonNegativeNumber = 0.0
    """The lr of update 0; unused without a warm-up."""
    end_lr: NonNegativeNumber = 0.0
    """The lr of update `total_steps - 1` and of all later updates."""
    total_steps: RunLength = None
    """Updates until `end_lr`. If omitted or `auto`, the length of the run."""
    warmup_steps: Duration = 0
    """Updates of the linear warm-up; with 0, update 0 runs at `peak_lr`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in ("start_lr", "end_lr"):
            if getattr(self, name) > self.peak_lr:
                self.refuse(name, f"must be <= peak_lr; got {getattr(self, name)} with peak_lr {self.peak_lr}")
        lengths_known = all_resolved(self.total_steps, self.warmup_steps)
        if lengths_known and self.total_steps is not None and self.warmup_steps >= self.total_steps:
            self.refuse(
                "warmup_steps",
                f"must be < total_steps; got {self.warmup_steps} with total_steps {self.total_steps}."
                " Lower it or train longer.",
            )
        return self


@SCHEDULE_REGISTRY.register("warmup_cosine_decay")
class WarmupCosineDecay(WarmupCosineFields, Schedule):
    """Linear warm-up from start_lr to peak_lr, then half a cosine to end_lr, which holds.

    Formula:
        lr(k) = start_lr + (peak_lr - start_lr) * k / W, for k < W;
        lr(k) = end_lr + (peak_lr - end_lr) * (1 + cos(pi * (k - W) / (N - 1 - W))) / 2, for W <= k < N - 1;
        lr(k) = end_lr, for k >= N - 1;
        with W = warmup_steps and N = total_steps. If W = N - 1, update W runs at peak_lr.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["warmup_cosine_decay"](
        ...     peak_lr=1e-3, start_lr=1e-5, end_lr=1e-5, warmup_steps=10, total_steps=101
        ... )
        >>> [round(schedule.lr_at(k), 6) for k in (0, 10, 55, 100, 1000)]
        [1e-05, 0.001, 0.000505, 1e-05, 1e-05]
    """

    absolute: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "total_steps"

    def lr_at(self, update: int) -> float:
        last = self._last_update
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
    def _last_update(self) -> int:
        if self.total_steps is None:
            raise ValueError("total_steps is not known yet: call resolved(horizon) first")
        return self.total_steps - 1


class OneCycleFields(Config):
    """Fields of the 1cycle policy, named as in torch.optim.lr_scheduler.OneCycleLR."""

    max_lr: PositiveNumber
    """The highest lr."""
    total_steps: RunLength = None
    """Updates in the cycle. If omitted, `epochs` x `steps_per_epoch`, or else the length of the run."""
    epochs: PositiveCount | None = None
    """Epochs in the cycle: with `steps_per_epoch`, another way to give `total_steps`."""
    steps_per_epoch: PositiveCount | None = None
    """Updates in an epoch. If omitted, the number in one pass over the data."""
    pct_start: Fraction = 0.3
    """Share of the cycle in which the lr rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Shape of the rise and of the fall."""
    cycle_momentum: bool = True
    """Whether momentum (beta1) moves opposite to the lr."""
    base_momentum: Fraction = 0.85
    """Momentum at the highest lr."""
    max_momentum: Fraction = 0.95
    """Momentum at the lowest lr."""
    div_factor: PositiveNumber = 25.0
    """The first lr is max_lr / div_factor."""
    final_div_factor: PositiveNumber = 1e4
    """The last lr is max_lr / div_factor / final_div_factor."""
    three_phase: bool = False
    """Whether the fall mirrors the rise first and reaches the last lr in a third phase."""

    @model_validator(mode="after")
    def _check_phases(self) -> Self:
        if self.total_steps is not None and self.epochs is not None:
            self.refuse("epochs", f"give total_steps or epochs, not both; got {self.total_steps} and {self.epochs}")
        if self.total_steps is not None and all_resolved(self.total_steps) and self.pct_start * self.total_steps == 1.0:
            # PyTorch divides by the length of the rise minus one update.
            self.refuse(
                "pct_start",
                f"must not make the rise exactly one update long; got {self.pct_start}"
                f" of {counted(self.total_steps, 'update')}",
            )
        return self


@SCHEDULE_REGISTRY.register("one_cycle", aliases=("OneCycleLR",))
class OneCycle(OneCycleFields, Schedule):
    """PyTorch's OneCycleLR, bit for bit: a rise to max_lr, then a fall to the last lr, which holds.

    PyTorch's class raises past the end of the cycle.

    Formula:
        lr(k) = v + (w - v) * (1 - cos(pi * (k - a) / (b - a))) / 2, from one corner (a, v) to the next one (b, w);
        lr(k) = v + (w - v) * (k - a) / (b - a), if anneal_strategy is linear;
        corners (0, first), (R, max_lr) and (N - 1, last), with three_phase also (2 * R, first) before the last one;
        with N = total_steps, R = pct_start * N - 1, first = max_lr / div_factor, last = first / final_div_factor.

    Source: Smith & Topin 2018 (arXiv:1708.07120), in the form of torch.optim.lr_scheduler.OneCycleLR.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["one_cycle"](max_lr=1e-2, total_steps=100)
        >>> [round(schedule.lr_at(k), 8) for k in (0, 29, 64, 99, 1000)]
        [0.0004, 0.01, 0.00500002, 4e-08, 4e-08]
        >>> [round(schedule.momentum_at(k), 4) for k in (0, 29, 99)]
        [0.95, 0.85, 0.95]
    """

    absolute: ClassVar[bool] = True
    length_field: ClassVar[str | None] = "total_steps"

    def lr_at(self, update: int) -> float:
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        return self._interpolate(
            update, [first, self.max_lr, first, last] if self.three_phase else [first, self.max_lr, last]
        )

    def moves_momentum(self) -> bool:
        return self.cycle_momentum

    def momentum_at(self, update: int) -> float | None:
        if not self.cycle_momentum:
            return None
        corners = [self.max_momentum, self.base_momentum, self.max_momentum]
        return self._interpolate(update, [*corners, self.max_momentum] if self.three_phase else corners)

    def resolved(self, horizon: Horizon | None) -> Self:
        if self.epochs is None:
            return super().resolved(horizon)
        per_epoch = self.steps_per_epoch or (horizon.steps_per_epoch if horizon else None)
        if per_epoch is None:
            self.refuse("steps_per_epoch", "not given, and there is no horizon to take it from; epochs needs it")
        steps = -(-self.epochs * per_epoch // self.step_length(horizon))
        return self.replaced(total_steps=steps, epochs=None).resolved(horizon)

    def summary(self) -> str:
        first = self.max_lr / self.div_factor
        peak = round(self.pct_start * self.total_steps) - 1 if self.total_steps else f"{self.pct_start:.0%}"
        last = first / self.final_div_factor
        return f"{short(first)} ↗ {short(self.max_lr)} ({peak}) ↘ {short(last)} ({self.total_steps})"

    def _interpolate(self, update: int, corners: Sequence[float]) -> float:
        """Return the value at `update` between `corners`: the first value, and the value at the end of each phase.

        Operations and their order are those of PyTorch's class, so that the results agree bit for bit.
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
