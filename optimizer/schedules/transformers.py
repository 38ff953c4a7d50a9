"""The schedules that only transformers has, with its names and parameters: factors on the lr.

Source: transformers.optimization. Where theirs rise again after the end of the run, these hold their last value.
"""

import math
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ..config.validation import Fraction, NonNegativeNumber, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, PositiveLength, RunLength, known
from .hugging_face import WarmupThenDecay


@SCHEDULE_REGISTRY.register("inverse_sqrt")
class InverseSqrt(Schedule):
    """Linear warm-up from 0, then one over the square root of the updates done."""

    absolute: ClassVar[bool] = False

    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0."""
    timescale: PositiveLength | None = None
    """Updates after the warm-up in which the lr falls to 0.7; left out, num_warmup_steps, or 10,000 if that is 0."""

    def lr_at(self, update: int) -> float:
        if update < self.num_warmup_steps:
            return update / self.num_warmup_steps
        timescale = self.timescale or self.num_warmup_steps or 10_000
        return 1.0 / math.sqrt((update + timescale - self.num_warmup_steps) / timescale)

    def summary(self) -> str:
        rise = f"0 ↗ 1 ({self.num_warmup_steps}) " if self.num_warmup_steps else "1 "
        return f"× {rise}↘ 1/√"


class CosineToMinimum(WarmupThenDecay):
    """Base: a cosine that ends at a minimum, given as an lr or as a share of the optimizer's."""

    num_cycles: PositiveNumber = 0.5
    """Waves in the decay; 0.5 goes from 1 to the minimum."""
    min_lr: NonNegativeNumber | None = None
    """The lowest lr; or give min_lr_rate."""
    min_lr_rate: Fraction | None = None
    """The lowest factor; or give min_lr."""

    @model_validator(mode="after")
    def _check_one_minimum(self) -> Self:
        if (self.min_lr is None) == (self.min_lr_rate is None):
            given = "neither" if self.min_lr is None else "both"
            self.refuse("min_lr", f"give min_lr or min_lr_rate, one of them; got {given}")
        return self

    def decay(self, progress: float) -> float:
        floor = self.min_lr_rate or 0.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress))
        return max(0.0, cosine * (1.0 - floor) + floor)

    def for_lr(self, lr: float) -> Self:
        if self.min_lr is None:
            return self
        if self.min_lr > lr:
            self.refuse("min_lr", f"must be <= the optimizer's lr; got {self.min_lr} with {lr}")
        return self.replaced(min_lr=None, min_lr_rate=self.min_lr / lr if lr else 0.0)


@SCHEDULE_REGISTRY.register("cosine_with_min_lr")
class CosineWithMinLR(CosineToMinimum):
    """Linear warm-up from 0, then a cosine to a minimum."""


@SCHEDULE_REGISTRY.register("cosine_warmup_with_min_lr")
class CosineWarmupWithMinLR(CosineToMinimum):
    """A linear warm-up that does not start at 0, then a cosine to a minimum at the very last update."""

    warmup_lr_rate: Fraction | None = None
    """The factor of update 0; left out, one over num_warmup_steps."""

    def lr_at(self, update: int) -> float:
        warmup = self.num_warmup_steps
        if update >= warmup:
            return super().lr_at(update + 1)
        if self.warmup_lr_rate is None:
            return (update + 1) / warmup
        return self.warmup_lr_rate + (1.0 - self.warmup_lr_rate) * update / max(1, warmup - 1)


@SCHEDULE_REGISTRY.register("warmup_stable_decay", aliases=("wsd",))
class WarmupStableDecay(Schedule):
    """A warm-up from the minimum, a stretch at 1, and a decay to the minimum.

    Source: Hu et al. 2024 (arXiv:2404.06395), with the shapes of transformers, and 1-square and exponential.
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Length
    """Updates of the warm-up."""
    num_decay_steps: Length
    """Updates of the decay, at the end."""
    num_stable_steps: Length | None = None
    """Updates at 1; left out, what the two others leave of the run."""
    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's."""
    warmup_type: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """The shape of the warm-up."""
    decay_type: Literal["linear", "cosine", "1-sqrt", "1-square", "exponential"] = "cosine"
    """The shape of the decay."""
    min_lr_ratio: Fraction = 0.0
    """The factor at both ends."""
    num_cycles: PositiveNumber = 0.5
    """Waves in a cosine decay; 0.5 goes from 1 to the minimum."""

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if self.decay_type == "exponential" and self.min_lr_ratio == 0:
            self.refuse("min_lr_ratio", "must be > 0 for an exponential decay; got 0")
        lengths = (self.num_training_steps, self.num_warmup_steps, self.num_decay_steps)
        if known(*lengths) and self.num_stable_steps is None and self._stable() < 0:
            self.refuse(
                "num_decay_steps",
                f"warm-up and decay must fit into the run; got {self.num_warmup_steps} + {self.num_decay_steps}"
                f" with num_training_steps {self.num_training_steps}",
            )
        return self

    def needs_length(self) -> bool:
        return self.num_stable_steps is None

    def lr_at(self, update: int) -> float:
        since_stable = update - self.num_warmup_steps
        if since_stable < 0:
            return self._rise(update / self.num_warmup_steps)
        progress = since_stable - self._stable()
        if progress < 0:
            return 1.0
        if progress >= self.num_decay_steps:
            return self.min_lr_ratio
        return self._fall(progress / self.num_decay_steps)

    def summary(self) -> str:
        low = short(self.min_lr_ratio)
        return f"× {low} ↗ 1 ({self.num_warmup_steps}), {self._stable()}, ↘ {low} ({self.num_decay_steps})"

    def _stable(self) -> int:
        if self.num_stable_steps is not None:
            return self.num_stable_steps
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        return self.num_training_steps - self.num_warmup_steps - self.num_decay_steps

    def _rise(self, progress: float) -> float:
        shapes = {
            "linear": progress,
            "cosine": 0.5 * (1.0 - math.cos(math.pi * progress)),
            "1-sqrt": 1.0 - math.sqrt(1.0 - progress),
        }
        return shapes[self.warmup_type] * (1.0 - self.min_lr_ratio) + self.min_lr_ratio

    def _fall(self, progress: float) -> float:
        if self.decay_type == "exponential":
            return float(self.min_lr_ratio**progress)
        shapes = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress)),
            "1-sqrt": 1.0 - math.sqrt(progress),
            "1-square": 1.0 - progress**2,
        }
        return max(0.0, shapes[self.decay_type] * (1.0 - self.min_lr_ratio) + self.min_lr_ratio)
