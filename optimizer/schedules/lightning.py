"""The schedule of Lightning Bolts, which users of Lightning and DynVision know."""

import math
from typing import ClassVar, Self

from pydantic import model_validator

from ..config.fields import NonNegativeNumber, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Duration, PositiveDuration, all_resolved


@SCHEDULE_REGISTRY.register("LinearWarmupCosineAnnealingLR")
class LinearWarmupCosineAnnealing(Schedule):
    """Lightning Bolts' linear warm-up and cosine annealing, as DynVision uses it.

    The peak is held for the two steps W - 1 and W. After T, where Lightning Bolts' lr rises again, the last value
    holds. With `interval: epoch` a step is an epoch, and all of epoch 0 runs at warmup_start_lr.

    Formula:
        lr(k) = warmup_start_lr + (initial_lr - warmup_start_lr) * k / (W - 1), for step k < W;
        lr(k) = eta_min + (initial_lr - eta_min) * (1 + cos(pi * (k - W) / (T - W))) / 2, for W <= k <= T;
        lr(k) = eta_min, for k > T;
        with W = warmup_epochs and T = max_epochs.

    Source: pl_bolts.optimizers.lr_scheduler.LinearWarmupCosineAnnealingLR.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["LinearWarmupCosineAnnealingLR"](
        ...     warmup_epochs=5, max_epochs=25, warmup_start_lr=1e-5, initial_lr=1e-3
        ... )
        >>> [round(schedule.lr_at(k), 6) for k in (0, 2, 4, 5, 15, 25, 100)]
        [1e-05, 0.000505, 0.001, 0.001, 0.0005, 0.0, 0.0]
    """

    absolute: ClassVar[bool] = True
    base_lr_field: ClassVar[str | None] = "initial_lr"

    warmup_epochs: Duration
    """Steps of the warm-up; the last of them already runs at the peak."""
    max_epochs: PositiveDuration
    """Steps until eta_min."""
    warmup_start_lr: NonNegativeNumber = 0.0
    """The lr of step 0; unused without a warm-up."""
    eta_min: NonNegativeNumber = 0.0
    """The lr of step `max_epochs` and of all later steps."""
    initial_lr: PositiveNumber | None = None
    """The peak. If omitted, the optimizer's lr."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if all_resolved(self.warmup_epochs, self.max_epochs) and self.warmup_epochs >= self.max_epochs:
            self.refuse(
                "warmup_epochs",
                f"must be < max_epochs; got {self.warmup_epochs} with max_epochs {self.max_epochs}",
            )
        return self

    def lr_at(self, update: int) -> float:
        peak, warmup = self.initial_lr or 1.0, self.warmup_epochs
        if update < warmup:
            return self.warmup_start_lr + update * (peak - self.warmup_start_lr) / max(1, warmup - 1)
        progress = (min(update, self.max_epochs) - warmup) / (self.max_epochs - warmup)
        return self.eta_min + 0.5 * (peak - self.eta_min) * (1.0 + math.cos(math.pi * progress))

    def summary(self) -> str:
        rise = f"{short(self.warmup_start_lr)} ↗ " if self.warmup_epochs else ""
        peak = short(self.initial_lr) if self.initial_lr else "lr"
        return f"{rise}{peak} ({self.warmup_epochs}) ↘ {short(self.eta_min)} ({self.max_epochs})"
