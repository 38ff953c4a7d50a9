"""Further shapes of decay, known from optax, Keras, timm and pytorch_optimizer: factors on the lr.

They take warm-up and length as the schedules of transformers do. progress is 0 at the end of the warm-up
and 1 at the end of the run.
"""

import math
from abc import abstractmethod
from typing import ClassVar, Self

from pydantic import model_validator

from ..config.validation import Fraction, Number, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, PositiveLength
from .hugging_face import WarmupThenDecay


class DecayToMinimum(WarmupThenDecay):
    """Base: from 1 to a minimum, on a shape of its own."""

    min_lr_ratio: Fraction = 0.0
    """The factor at the end."""

    @abstractmethod
    def shape(self, progress: float) -> float:
        """Return 1 at progress 0 and 0 at progress 1."""

    def decay(self, progress: float) -> float:
        return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * self.shape(progress)


@SCHEDULE_REGISTRY.register("cosine_decay")
class CosineDecay(DecayToMinimum):
    """Linear warm-up from 0, then half a cosine: (½ (1 + cos π progress^k_decay))^exponent.

    Source: optax.cosine_decay_schedule (exponent), Keras' CosineDecay; timm's CosineLRScheduler (k_decay, Zhang &
    Li 2020, arXiv:2004.05909).
    """

    exponent: PositiveNumber = 1.0
    """Power of the cosine."""
    k_decay: PositiveNumber = 1.0
    """Power of the progress; above 1 the lr stays high for longer."""

    def shape(self, progress: float) -> float:
        return float((0.5 * (1.0 + math.cos(math.pi * progress**self.k_decay))) ** self.exponent)


@SCHEDULE_REGISTRY.register("polynomial_decay", aliases=("poly",))
class PolynomialDecay(DecayToMinimum):
    """Linear warm-up from 0, then (1 - progress^k_decay)^power.

    Source: optax.polynomial_schedule, Keras' PolynomialDecay; timm's PolyLRScheduler (k_decay).
    """

    power: PositiveNumber = 1.0
    """The power; 1 is a straight line."""
    k_decay: PositiveNumber = 1.0
    """Power of the progress; above 1 the lr stays high for longer."""

    def shape(self, progress: float) -> float:
        return float((1.0 - progress**self.k_decay) ** self.power)


@SCHEDULE_REGISTRY.register("tanh")
class Tanh(DecayToMinimum):
    """Linear warm-up from 0, then a hyperbolic tangent: ½ (1 - tanh(lb (1 - progress) + ub progress)).

    It starts a little below 1 and ends a little above the minimum, as far as lb and ub are from infinity;
    timm's drops to the minimum at the end, this one stays where it is.
    Source: Hsueh et al. 2018 (arXiv:1806.01593), in the form of timm's TanhLRScheduler.
    """

    lb: Number = -7.0
    """Argument of the tangent at the start."""
    ub: Number = 3.0
    """Argument of the tangent at the end."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.lb >= self.ub:
            self.refuse("lb", f"must be < ub; got {self.lb} with ub {self.ub}")
        return self

    def shape(self, progress: float) -> float:
        return 0.5 * (1.0 - math.tanh(self.lb * (1.0 - progress) + self.ub * progress))


@SCHEDULE_REGISTRY.register("rex")
class REX(DecayToMinimum):
    """Linear warm-up from 0, then the reflected exponential: (1 - progress) / (1 - progress / 2).

    Source: Chen et al. 2021 (arXiv:2107.04197).
    """

    def shape(self, progress: float) -> float:
        return (1.0 - progress) / (1.0 - progress / 2.0)


class Endless(Schedule):
    """Base: a linear warm-up from 0, then a decay that knows no end of the run."""

    absolute: ClassVar[bool] = False

    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0."""
    decay_steps: PositiveLength
    """Updates in which the decay goes through `decay_rate` once."""
    decay_rate: PositiveNumber
    """What happens in `decay_steps` updates."""
    staircase: bool = False
    """Whether the factor changes only every `decay_steps` updates."""

    @abstractmethod
    def shape(self, times: float) -> float:
        """Return the factor after `times` times decay_steps."""

    def may_jump(self) -> bool:
        return self.staircase

    def lr_at(self, update: int) -> float:
        if update < self.num_warmup_steps:
            return update / self.num_warmup_steps
        times = (update - self.num_warmup_steps) / self.decay_steps
        return self.shape(math.floor(times) if self.staircase else times)

    def summary(self) -> str:
        rise = f"0 ↗ 1 ({self.num_warmup_steps}) " if self.num_warmup_steps else "1 "
        return f"× {rise}↘ {short(self.shape(1.0))} every {self.decay_steps}"


@SCHEDULE_REGISTRY.register("exponential_decay", aliases=("exponential",))
class ExponentialDecay(Endless):
    """decay_rate^(updates / decay_steps), not below min_lr_ratio.

    Source: optax.exponential_decay, Keras' ExponentialDecay.
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
class InverseTimeDecay(Endless):
    """1 / (1 + decay_rate × updates / decay_steps). Source: Keras' InverseTimeDecay."""

    def shape(self, times: float) -> float:
        return 1.0 / (1.0 + self.decay_rate * times)
