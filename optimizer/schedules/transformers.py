"""The schedules of transformers that diffusers lacks, under its names and with its parameters: factors on the lr.

Source: transformers.optimization. Past the end of the run, where some of its curves rise again, the last value
holds here. The schedules that both libraries have are in diffusers.py.
"""

import math
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ..config.fields import Fraction, NonNegativeNumber, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Duration, PositiveDuration, RunLength, all_resolved
from .warmup import LinearWarmup, WarmupThenDecay


@SCHEDULE_REGISTRY.register("inverse_sqrt")
class InverseSqrt(LinearWarmup):
    """Linear warm-up from 0 to 1, then a decay by the inverse square root of the update.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = 1 / sqrt((k - W + T) / T), for k >= W;
        with W = num_warmup_steps and T = timescale.

    Source: get_inverse_sqrt_schedule of transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["inverse_sqrt"](num_warmup_steps=100)
        >>> [schedule.lr_at(k) for k in (0, 50, 100, 400, 10_000)]
        [0.0, 0.5, 1.0, 0.5, 0.1]
    """

    timescale: PositiveDuration | None = None
    """Updates after the warm-up until the factor is 1 / sqrt(2). If omitted, num_warmup_steps, or else 10,000."""

    def after_warmup(self, update: int) -> float:
        timescale = self.timescale or self.num_warmup_steps or 10_000
        return 1.0 / math.sqrt((update + timescale) / timescale)

    def summary(self) -> str:
        return f"× {self.rise_summary()}↘ 1/√"


class CosineToMinimum(WarmupThenDecay):
    """Base of the cosines that end at a minimum, given as an lr or as a share of the optimizer's lr."""

    num_cycles: PositiveNumber = 0.5
    """Waves of the cosine in the decay; 0.5 falls from 1 to the minimum once."""
    min_lr: NonNegativeNumber | None = None
    """The lowest lr. Give either this or min_lr_rate."""
    min_lr_rate: Fraction | None = None
    """The lowest factor. Give either this or min_lr."""

    @model_validator(mode="after")
    def _check_one_minimum(self) -> Self:
        if (self.min_lr is None) == (self.min_lr_rate is None):
            given = "neither" if self.min_lr is None else "both"
            self.refuse("min_lr", f"give exactly one of min_lr and min_lr_rate; got {given}")
        return self

    def decay(self, progress: float) -> float:
        floor = self.min_lr_rate or 0.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress))
        return max(0.0, cosine * (1.0 - floor) + floor)

    def with_base_lr(self, base_lr: float) -> Self:
        if self.min_lr is None:
            return self
        if self.min_lr > base_lr:
            self.refuse("min_lr", f"must be <= the optimizer's lr; got {self.min_lr} with {base_lr}")
        return self.replaced(min_lr=None, min_lr_rate=self.min_lr / base_lr if base_lr else 0.0)


@SCHEDULE_REGISTRY.register("cosine_with_min_lr")
class CosineWithMinLR(CosineToMinimum):
    """Linear warm-up from 0 to 1, then a cosine to a minimum at the end of the run.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * (1 + cos(2 * pi * num_cycles * p)) / 2, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and
        m = min_lr_rate, or min_lr / lr.

    Source: get_cosine_with_min_lr_schedule_with_warmup of transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_with_min_lr"](
        ...     num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.1
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    """


@SCHEDULE_REGISTRY.register("cosine_warmup_with_min_lr")
class CosineWarmupWithMinLR(CosineToMinimum):
    """Linear warm-up from above 0 to 1, then a cosine to a minimum at the last update.

    Formula:
        factor(k) = (k + 1) / W, for k < W, if warmup_lr_rate is omitted;
        factor(k) = r + (1 - r) * k / (W - 1), for k < W, with r = warmup_lr_rate;
        factor(k) = m + (1 - m) * (1 + cos(2 * pi * num_cycles * p)) / 2, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k + 1 - W) / (N - W)) and
        m = min_lr_rate, or min_lr / lr.

    Source: get_cosine_with_min_lr_schedule_with_warmup_lr_rate of transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_warmup_with_min_lr"](
        ...     num_warmup_steps=10, num_training_steps=110, min_lr_rate=0.1
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 4, 9, 59, 109, 1000)]
        [0.1, 0.5, 1.0, 0.55, 0.1, 0.1]
    """

    warmup_lr_rate: Fraction | None = None
    """The factor of update 0. If omitted, 1 / num_warmup_steps."""

    def lr_at(self, update: int) -> float:
        warmup = self.num_warmup_steps
        if update >= warmup:
            return super().lr_at(update + 1)
        if self.warmup_lr_rate is None:
            return (update + 1) / warmup
        return self.warmup_lr_rate + (1.0 - self.warmup_lr_rate) * update / max(1, warmup - 1)


@SCHEDULE_REGISTRY.register("warmup_stable_decay", aliases=("wsd",))
class WarmupStableDecay(Schedule):
    """Warm-up from a minimum to 1, a stable phase at 1, and a decay to the minimum (WSD).

    Formula:
        factor(k) = m + (1 - m) * rise(k / W), for k < W;
        factor(k) = 1, for W <= k < W + S;
        factor(k) = m + (1 - m) * fall((k - W - S) / D), for W + S <= k < W + S + D;
        factor(k) = m, for k >= W + S + D;
        with W = num_warmup_steps, S = num_stable_steps, D = num_decay_steps and m = min_lr_ratio.
        rise(x) is x (linear), (1 - cos(pi * x)) / 2 (cosine) or 1 - sqrt(1 - x) (1-sqrt);
        fall(x) is 1 - x (linear), (1 + cos(2 * pi * num_cycles * x)) / 2 (cosine), 1 - sqrt(x) (1-sqrt) or
        1 - x^2 (1-square). The exponential decay has the factor m^x.

    Source: Hu et al. 2024 (arXiv:2404.06395), in the form of get_wsd_schedule of transformers.optimization,
    which has neither 1-square nor exponential.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["warmup_stable_decay"](
        ...     num_warmup_steps=10, num_decay_steps=20, num_training_steps=100, decay_type="1-sqrt"
        ... )
        >>> [schedule.lr_at(k) for k in (0, 5, 10, 80, 85, 100, 1000)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Duration
    """Updates of the warm-up."""
    num_decay_steps: Duration
    """Updates of the decay."""
    num_stable_steps: Duration | None = None
    """Updates at factor 1. If omitted, the rest of the run."""
    num_training_steps: RunLength = None
    """Updates in the run. If omitted or `auto`, the horizon's total_steps."""
    warmup_type: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """Shape of the warm-up."""
    decay_type: Literal["linear", "cosine", "1-sqrt", "1-square", "exponential"] = "cosine"
    """Shape of the decay."""
    min_lr_ratio: Fraction = 0.0
    """The factor at update 0 and at the end."""
    num_cycles: PositiveNumber = 0.5
    """Waves of a cosine decay; 0.5 falls from 1 to the minimum once."""

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if self.decay_type == "exponential" and self.min_lr_ratio == 0:
            self.refuse("min_lr_ratio", "must be > 0 for an exponential decay; got 0")
        lengths = (self.num_training_steps, self.num_warmup_steps, self.num_decay_steps)
        if all_resolved(*lengths) and self.num_stable_steps is None and self._stable_steps() < 0:
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
        progress = since_stable - self._stable_steps()
        if progress < 0:
            return 1.0
        if progress >= self.num_decay_steps:
            return self.min_lr_ratio
        return self._fall(progress / self.num_decay_steps)

    def summary(self) -> str:
        low = short(self.min_lr_ratio)
        return f"× {low} ↗ 1 ({self.num_warmup_steps}), {self._stable_steps()}, ↘ {low} ({self.num_decay_steps})"

    def _stable_steps(self) -> int:
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
