"""The schedules that diffusers and transformers share, with their names: factors on the lr over the run.

Source: diffusers.optimization and transformers.optimization. Theirs go on past the end of the run, where a
cosine rises again; these hold their last value.
"""

import math
from abc import abstractmethod
from typing import ClassVar, Self

from pydantic import Field, field_validator

from ..config.validation import NonNegativeNumber, PositiveCount, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, RunLength


class WarmupThenDecay(Schedule):
    """Base: a linear warm-up from 0, then a decay over the rest of the run."""

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"

    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0; with any, update 0 moves nothing."""
    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's."""

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Return the factor at `progress`, 0 at the end of the warm-up and 1 at the end of the run."""

    def lr_at(self, update: int) -> float:
        if update < self.num_warmup_steps:
            return update / self.num_warmup_steps
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        rest = max(1, self.num_training_steps - self.num_warmup_steps)
        return self.decay(max(0.0, min(1.0, (update - self.num_warmup_steps) / rest)))

    def summary(self) -> str:
        rise = f"0 ↗ 1 ({self.num_warmup_steps}) " if self.num_warmup_steps else "1 "
        return f"× {rise}↘ {short(self.decay(1.0))} ({self.num_training_steps})"


@SCHEDULE_REGISTRY.register("linear")
class Linear(WarmupThenDecay):
    """Linear warm-up from 0, then a straight line to 0."""

    def decay(self, progress: float) -> float:
        return 1.0 - progress


@SCHEDULE_REGISTRY.register("cosine", aliases=("cosine_annealing_with_warmup",))
class Cosine(WarmupThenDecay):
    """Linear warm-up from 0, then a cosine to 0. LeRobot's cosine_annealing_with_warmup is the same."""

    num_cycles: PositiveNumber = 0.5
    """Waves in the decay; 0.5 goes from 1 to 0."""

    def decay(self, progress: float) -> float:
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * self.num_cycles * 2.0 * progress)))


@SCHEDULE_REGISTRY.register("cosine_with_restarts")
class CosineWithRestarts(WarmupThenDecay):
    """Linear warm-up from 0, then `num_cycles` cosines to 0, each starting at the top."""

    jumps: ClassVar[bool] = True

    num_cycles: PositiveCount = 1
    """Cosines in the decay."""

    def lr_at(self, update: int) -> float:
        since = update - self.num_warmup_steps
        if since < 0:
            return super().lr_at(update)
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        rest = max(1, self.num_training_steps - self.num_warmup_steps)
        if since >= rest:
            return self.decay(1.0)
        # Whole numbers: in floating point, as in diffusers, some cosines start at the bottom (0.999… for 0).
        return self.decay(self.num_cycles * since % rest / rest)

    def decay(self, progress: float) -> float:
        """Return the factor at `progress` in a cosine, 0 at its top and 1 at its end."""
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


@SCHEDULE_REGISTRY.register("polynomial")
class Polynomial(WarmupThenDecay):
    """Linear warm-up from 0, then a power of the rest of the run, down to lr_end."""

    power: PositiveNumber = 1.0
    """The power; 1 is a straight line."""
    lr_end: NonNegativeNumber = 1e-7
    """The last lr, of the optimizer's lr."""
    lr_init: PositiveNumber | None = None
    """The lr that lr_end is compared with; left out, the optimizer's."""

    def decay(self, progress: float) -> float:
        lr = self.lr_init or 1.0
        return float((lr - self.lr_end) * (1.0 - progress) ** self.power + self.lr_end) / lr

    def for_lr(self, lr: float) -> Self:
        if self.lr_end >= (self.lr_init or lr):
            self.refuse("lr_end", f"must be < the optimizer's lr; got {self.lr_end} with {self.lr_init or lr}")
        return self if self.lr_init is not None else self.replaced(lr_init=lr)


@SCHEDULE_REGISTRY.register("constant_with_warmup")
class ConstantWithWarmup(Schedule):
    """Linear warm-up from 0, then every group's own lr."""

    absolute: ClassVar[bool] = False

    num_warmup_steps: Length = 1000
    """Updates of the warm-up."""

    def lr_at(self, update: int) -> float:
        return update / self.num_warmup_steps if update < self.num_warmup_steps else 1.0

    def summary(self) -> str:
        return f"× 0 ↗ 1 ({self.num_warmup_steps})"


@SCHEDULE_REGISTRY.register("piecewise_constant")
class PiecewiseConstant(Schedule):
    """A factor for each stretch of updates, written as in diffusers: "1:10,0.1:20,0.005"."""

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True

    step_rules: str = Field(examples=["1:10,0.1:20,0.005"])
    """FACTOR:BOUNDARY for each stretch, in order, then the factor afterwards."""

    @field_validator("step_rules")
    @classmethod
    def _check_rules(cls, rules: str) -> str:
        try:
            boundaries = [boundary for _, boundary in _parsed(rules)]
        except ValueError:
            raise ValueError(f"must be FACTOR:BOUNDARY, … , FACTOR as in 1:10,0.1:20,0.005; got {rules!r}") from None
        if boundaries != sorted(set(boundaries)):
            raise ValueError(f"the boundaries must rise; got {rules!r}")
        if not all(0.0 <= factor < math.inf for factor, _ in _parsed(rules)):
            raise ValueError(f"the factors must be >= 0; got {rules!r}")
        return rules

    def lr_at(self, update: int) -> float:
        return next(factor for factor, boundary in _parsed(self.step_rules) if update < boundary)

    def summary(self) -> str:
        return f"× {self.step_rules}"


def _parsed(rules: str) -> list[tuple[float, float]]:
    *stretches, last = rules.split(",")
    pairs = [stretch.split(":") for stretch in stretches]
    return [*((float(factor), int(boundary)) for factor, boundary in pairs), (float(last), math.inf)]
