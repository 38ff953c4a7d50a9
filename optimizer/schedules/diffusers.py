"""The schedules of diffusers under their names, which transformers shares: factors on the lr over the run.

Source: diffusers.optimization and transformers.optimization. Past the end of the run, where a cosine of theirs rises
again, the last value holds here. `constant` is in basic.py.
"""

import math
from typing import ClassVar, Self

from pydantic import Field, field_validator

from ..config.fields import NonNegativeNumber, PositiveCount, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule
from .durations import Duration
from .warmup import LinearWarmup, WarmupThenDecay


@SCHEDULE_REGISTRY.register("linear")
class Linear(WarmupThenDecay):
    """Linear warm-up from 0 to 1, then a straight line to 0 at the end of the run.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = 1 - p, for k >= W;
        with W = num_warmup_steps, N = num_training_steps and p = min(1, (k - W) / (N - W)).

    Source: get_linear_schedule_with_warmup of diffusers.optimization and transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["linear"](num_warmup_steps=10, num_training_steps=110)
        >>> [schedule.lr_at(k) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def decay(self, progress: float) -> float:
        return 1.0 - progress


@SCHEDULE_REGISTRY.register("cosine", aliases=("cosine_annealing_with_warmup",))
class Cosine(WarmupThenDecay):
    """Linear warm-up from 0 to 1, then a cosine to 0 at the end of the run.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = (1 + cos(2 * pi * num_cycles * p)) / 2, for k >= W;
        with W = num_warmup_steps, N = num_training_steps and p = min(1, (k - W) / (N - W)).

    Source: get_cosine_schedule_with_warmup of diffusers.optimization and transformers.optimization.
    LeRobot's cosine_annealing_with_warmup is the same curve.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine"](num_warmup_steps=10, num_training_steps=110)
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 35, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.8536, 0.5, 0.0, 0.0]
    """

    num_cycles: PositiveNumber = 0.5
    """Waves of the cosine in the decay; 0.5 falls from 1 to 0 once."""

    def decay(self, progress: float) -> float:
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress)))


@SCHEDULE_REGISTRY.register("cosine_with_restarts")
class CosineWithRestarts(WarmupThenDecay):
    """Linear warm-up from 0 to 1, then num_cycles half cosines from 1 to 0.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = (1 + cos(pi * (C * p - floor(C * p)))) / 2, for W <= k < N, with p = (k - W) / (N - W);
        factor(k) = 0, for k >= N;
        with W = num_warmup_steps, N = num_training_steps and C = num_cycles.

    Source: get_cosine_with_hard_restarts_schedule_with_warmup of diffusers.optimization and transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_with_restarts"](
        ...     num_warmup_steps=10, num_training_steps=110, num_cycles=2
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 10, 35, 59, 60, 110, 1000)]
        [0.0, 1.0, 0.5, 0.001, 1.0, 0.0, 0.0]
    """

    jumps: ClassVar[bool] = True

    num_cycles: PositiveCount = 1
    """Half cosines in the decay."""

    def after_warmup(self, update: int) -> float:
        length = self.decay_length()
        if update >= length:
            return self.decay(1.0)
        # In integers: in floating point, as in diffusers, some cosines start at their end (remainder 0.999… for 0).
        return self.decay(self.num_cycles * update % length / length)

    def decay(self, progress: float) -> float:
        """Return the factor at `progress` in a half cosine, from 0 at its top to 1 at its end."""
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


@SCHEDULE_REGISTRY.register("polynomial")
class Polynomial(WarmupThenDecay):
    """Linear warm-up from 0 to 1, then a power of the remaining share of the run, down to lr_end.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = ((lr - lr_end) * (1 - p)^power + lr_end) / lr, for k >= W;
        with W = num_warmup_steps, N = num_training_steps, p = min(1, (k - W) / (N - W)) and lr = lr_init.

    Source: get_polynomial_decay_schedule_with_warmup of diffusers.optimization and transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["polynomial"](
        ...     num_warmup_steps=10, num_training_steps=110, power=2.0, lr_init=1e-3, lr_end=1e-5
        ... )
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.5, 1.0, 0.2575, 0.01, 0.01]
    """

    base_lr_field: ClassVar[str | None] = "lr_init"

    power: PositiveNumber = 1.0
    """Power of the remaining share of the run; 1 is a straight line."""
    lr_end: NonNegativeNumber = 1e-7
    """The lr at the end of the run."""
    lr_init: PositiveNumber | None = None
    """The lr to which lr_end is compared. If omitted, the optimizer's."""

    def decay(self, progress: float) -> float:
        lr = self.lr_init or 1.0
        return float((lr - self.lr_end) * (1.0 - progress) ** self.power + self.lr_end) / lr

    def with_base_lr(self, base_lr: float) -> Self:
        lr_init = self.lr_init or base_lr
        if self.lr_end >= lr_init:
            self.refuse("lr_end", f"must be < the optimizer's lr; got {self.lr_end} with {lr_init}")
        return super().with_base_lr(base_lr)


@SCHEDULE_REGISTRY.register("constant_with_warmup")
class ConstantWithWarmup(LinearWarmup):
    """Linear warm-up from 0 to 1, then a constant: every parameter group's own lr.

    Formula:
        factor(k) = min(1, k / W), with W = num_warmup_steps.

    Source: get_constant_schedule_with_warmup of diffusers.optimization and transformers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["constant_with_warmup"](num_warmup_steps=10)
        >>> [schedule.lr_at(k) for k in (0, 5, 10, 1000)]
        [0.0, 0.5, 1.0, 1.0]
    """

    num_warmup_steps: Duration = 1000
    """Updates of the linear warm-up."""

    def after_warmup(self, update: int) -> float:
        return 1.0

    def summary(self) -> str:
        return f"× 0 ↗ 1 ({self.num_warmup_steps})"


@SCHEDULE_REGISTRY.register("piecewise_constant")
class PiecewiseConstant(Schedule):
    """A constant factor in each interval of updates, written as in diffusers: "1:10,0.1:20,0.005".

    Formula:
        factor(k) = f_i, for b_(i-1) <= k < b_i, with b_0 = 0;
        factor(k) = f, for k >= b_n;
        with step_rules = "f_1:b_1,...,f_n:b_n,f".

    Source: get_piecewise_constant_schedule of diffusers.optimization.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["piecewise_constant"](step_rules="1:10,0.1:20,0.005")
        >>> [schedule.lr_at(k) for k in (0, 9, 10, 19, 20, 1000)]
        [1.0, 1.0, 0.1, 0.1, 0.005, 0.005]
    """

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True

    step_rules: str = Field(examples=["1:10,0.1:20,0.005"])
    """FACTOR:BOUNDARY for each interval, in rising order, then the factor after the last boundary."""

    @field_validator("step_rules")
    @classmethod
    def _check_rules(cls, rules: str) -> str:
        try:
            boundaries = [boundary for _, boundary in _parse_rules(rules)]
        except ValueError:
            raise ValueError(f"must be FACTOR:BOUNDARY, … , FACTOR as in 1:10,0.1:20,0.005; got {rules!r}") from None
        if boundaries != sorted(set(boundaries)):
            raise ValueError(f"the boundaries must rise; got {rules!r}")
        if not all(0.0 <= factor < math.inf for factor, _ in _parse_rules(rules)):
            raise ValueError(f"the factors must be >= 0; got {rules!r}")
        return rules

    def lr_at(self, update: int) -> float:
        return next(factor for factor, boundary in _parse_rules(self.step_rules) if update < boundary)

    def summary(self) -> str:
        return f"× {self.step_rules}"


def _parse_rules(rules: str) -> list[tuple[float, float]]:
    """Return each factor with the update before which it holds, the last one with infinity."""
    *intervals, last = rules.split(",")
    pairs = [interval.split(":") for interval in intervals]
    return [*((float(factor), int(boundary)) for factor, boundary in pairs), (float(last), math.inf)]
