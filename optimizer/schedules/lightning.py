"""The schedule that users of Lightning and DynVision know from Lightning Bolts."""

import math
from typing import ClassVar, Self

from pydantic import model_validator

from ..config.validation import NonNegativeNumber, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, PositiveLength, known


@SCHEDULE_REGISTRY.register("LinearWarmupCosineAnnealingLR")
class LinearWarmupCosineAnnealing(Schedule):
    """Lightning Bolts' LinearWarmupCosineAnnealingLR, as DynVision uses it.

    At step t < warmup_epochs the lr is warmup_start_lr + t (lr - warmup_start_lr) / (warmup_epochs - 1), then half a
    cosine to eta_min at max_epochs, where it stays; theirs rises again. With `interval: epoch` a step is an
    epoch, and the whole first one runs at warmup_start_lr.
    """

    absolute: ClassVar[bool] = True

    warmup_epochs: Length
    """Steps of the warm-up, which takes the lr to its peak in one step less."""
    max_epochs: PositiveLength
    """Steps until eta_min."""
    warmup_start_lr: NonNegativeNumber = 0.0
    """The lr of step 0, if there is a warm-up."""
    eta_min: NonNegativeNumber = 0.0
    """The last lr."""
    initial_lr: PositiveNumber | None = None
    """The peak; left out, the optimizer's lr."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if known(self.warmup_epochs, self.max_epochs) and self.warmup_epochs >= self.max_epochs:
            self.refuse(
                "warmup_epochs",
                f"must be < max_epochs; got {self.warmup_epochs} with max_epochs {self.max_epochs}",
            )
        return self

    def lr_at(self, step: int) -> float:
        peak, warmup = self.initial_lr or 1.0, self.warmup_epochs
        if step < warmup:
            return self.warmup_start_lr + step * (peak - self.warmup_start_lr) / max(1, warmup - 1)
        progress = (min(step, self.max_epochs) - warmup) / (self.max_epochs - warmup)
        return self.eta_min + 0.5 * (peak - self.eta_min) * (1.0 + math.cos(math.pi * progress))

    def for_lr(self, lr: float) -> Self:
        return self if self.initial_lr is not None else self.replaced(initial_lr=lr)

    def summary(self) -> str:
        rise = f"{short(self.warmup_start_lr)} ↗ " if self.warmup_epochs else ""
        peak = short(self.initial_lr) if self.initial_lr else "lr"
        return f"{rise}{peak} ({self.warmup_epochs}) ↘ {short(self.eta_min)} ({self.max_epochs})"
