"""More shapes of decay, known from Optax, Keras, timm and pytorch_optimizer: factors on the lr.

Warm-up and length have the names that they have in transformers. The progress p rises from 0 at the end of the warm-up
to 1 at the end of the run.
"""

import math
from abc import abstractmethod
from typing import Self

from pydantic import model_validator

from ..config.fields import Fraction, Number, PositiveNumber
from .base import SCHEDULE_REGISTRY, short
from .durations import PositiveDuration
from .warmup import LinearWarmup, WarmupThenDecay


class DecayToMinimum(WarmupThenDecay):
    """Base of the decays from 1 to a minimum m: m + (1 - m) * shape(p)."""

    min_lr_ratio: Fraction = 0.0
    """The factor at the end."""

    @abstractmethod
    def shape(self, progress: float) -> float:
        """Return the height of the curve at `progress`: 1 at progress 0, 0 at progress 1."""

    def decay(self, progress: float) -> float:
        return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * self.shape(progress)


@SCHEDULE_REGISTRY.register("cosine_decay")
class CosineDecay(DecayToMinimum):
    """Linear warm-up from 0 to 1, then half a cosine to a minimum.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * ((1 + cos(pi * p^k_decay)) / 2)^exponent, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and m = min_lr_ratio.

    Source: optax.cosine_decay_schedule (exponent), Keras' CosineDecay, timm's CosineLRScheduler (k_decay: Zhang &
    Li 2020, arXiv:2004.05909).

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_decay"](
        ...     num_warmup_steps=10, num_training_steps=110, min_lr_ratio=0.1
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    """

    exponent: PositiveNumber = 1.0
    """Power of the cosine."""
    k_decay: PositiveNumber = 1.0
    """Power of the progress; above 1 the lr stays high for longer."""

    def shape(self, progress: float) -> float:
        return float((0.5 * (1.0 + math.cos(math.pi * progress**self.k_decay))) ** self.exponent)


@SCHEDULE_REGISTRY.register("polynomial_decay", aliases=("poly",))
class PolynomialDecay(DecayToMinimum):
    """Linear warm-up from 0 to 1, then a power of the remaining share of the run, down to a minimum.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * (1 - p^k_decay)^power, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and m = min_lr_ratio.

    Source: optax.polynomial_schedule, Keras' PolynomialDecay, timm's PolyLRScheduler (k_decay).

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["polynomial_decay"](
        ...     num_warmup_steps=10, num_training_steps=110, power=2.0, min_lr_ratio=0.1
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.325, 0.1, 0.1]
    """

    power: PositiveNumber = 1.0
    """Power of the remaining share of the run; 1 is a straight line."""
    k_decay: PositiveNumber = 1.0
    """Power of the progress; above 1 the lr stays high for longer."""

    def shape(self, progress: float) -> float:
        return float((1.0 - progress**self.k_decay) ** self.power)


@SCHEDULE_REGISTRY.register("tanh")
class Tanh(DecayToMinimum):
    """Linear warm-up from 0 to 1, then a hyperbolic tangent to a minimum.

    With finite lb and ub the decay starts slightly below 1 and ends slightly above the minimum. The last value holds,
    where timm's drops to the minimum.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * (1 - tanh(lb * (1 - p) + ub * p)) / 2, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and m = min_lr_ratio.

    Source: Hsueh et al. 2018 (arXiv:1806.01593), in the form of timm's TanhLRScheduler.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["tanh"](num_training_steps=100)
        >>> [round(schedule.lr_at(k), 4) for k in (0, 50, 70, 100, 1000)]
        [1.0, 0.982, 0.5, 0.0025, 0.0025]
    """

    lb: Number = -7.0
    """Argument of the tangent at the start of the decay."""
    ub: Number = 3.0
    """Argument of the tangent at the end of the run."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.lb >= self.ub:
            self.refuse("lb", f"must be < ub; got {self.lb} with ub {self.ub}")
        return self

    def shape(self, progress: float) -> float:
        return 0.5 * (1.0 - math.tanh(self.lb * (1.0 - progress) + self.ub * progress))


@SCHEDULE_REGISTRY.register("rex")
class REX(DecayToMinimum):
    """Linear warm-up from 0 to 1, then the reflected exponential (REX) to a minimum.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * (1 - p) / (1 - p / 2), for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and m = min_lr_ratio.

    Source: Chen et al. 2021 (arXiv:2107.04197).

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["rex"](num_training_steps=100)
        >>> [round(schedule.lr_at(k), 4) for k in (0, 50, 80, 100, 1000)]
        [1.0, 0.6667, 0.3333, 0.0, 0.0]
    """

    def shape(self, progress: float) -> float:
        return (1.0 - progress) / (1.0 - progress / 2.0)


class EndlessDecay(LinearWarmup):
    """Base of the schedules with a linear warm-up from 0 and a decay that does not depend on the length of the run."""

    decay_steps: PositiveDuration
    """Updates in which `decay_rate` is applied once."""
    decay_rate: PositiveNumber
    """Strength of the decay in `decay_steps` updates, as the formula has it."""
    staircase: bool = False
    """Whether the factor changes only once in `decay_steps` updates."""

    @abstractmethod
    def shape(self, times: float) -> float:
        """Return the factor `times` * decay_steps updates after the warm-up."""

    def may_jump(self) -> bool:
        return self.staircase

    def after_warmup(self, update: int) -> float:
        times = update / self.decay_steps
        return self.shape(math.floor(times) if self.staircase else times)

    def summary(self) -> str:
        return f"× {self.rise_summary()}↘ {short(self.shape(1.0))} every {self.decay_steps}"


@SCHEDULE_REGISTRY.register("exponential_decay", aliases=("exponential",))
class ExponentialDecay(EndlessDecay):
    """Linear warm-up from 0 to 1, then a decay by decay_rate every decay_steps updates, down to a minimum.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = max(min_lr_ratio, decay_rate^((k - W) / decay_steps)), for k >= W, with W = num_warmup_steps.
        staircase rounds the exponent down.

    Source: optax.exponential_decay, Keras' ExponentialDecay.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["exponential_decay"](decay_steps=10, decay_rate=0.5, min_lr_ratio=0.1)
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 20, 1000)]
        [1.0, 0.7071, 0.5, 0.25, 0.1]
    """

    min_lr_ratio: Fraction = 0.0
    """The lowest factor."""

    @model_validator(mode="after")
    def _check_falls(self) -> Self:
        if self.decay_rate > 1:
            self.refuse("decay_rate", f"must be <= 1; got {self.decay_rate}")
        return self

    def shape(self, times: float) -> float:
        return max(self.min_lr_ratio, float(self.decay_rate**times))


@SCHEDULE_REGISTRY.register("inverse_time_decay", aliases=("inverse_time",))
class InverseTimeDecay(EndlessDecay):
    """Linear warm-up from 0 to 1, then one over a linear function of the update.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = 1 / (1 + decay_rate * (k - W) / decay_steps), for k >= W, with W = num_warmup_steps.
        staircase rounds the quotient (k - W) / decay_steps down.

    Source: Keras' InverseTimeDecay.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["inverse_time_decay"](decay_steps=10, decay_rate=1.0)
        >>> [schedule.lr_at(k) for k in (0, 10, 30, 90, 990)]
        [1.0, 0.5, 0.25, 0.1, 0.01]
    """

    def shape(self, times: float) -> float:
        return 1.0 / (1.0 + self.decay_rate * times)
