"""Schedules that go up again: warm restarts, and the fractal order of Chebyshev nodes. Factors on the lr."""

import fractions
import math
from typing import ClassVar, Self

from pydantic import model_validator

from ..config.validation import Count, Fraction, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import Length, PositiveLength, RunLength


@SCHEDULE_REGISTRY.register("cosine_decay_restarts", aliases=("sgdr",))
class CosineDecayRestarts(Schedule):
    """Linear warm-up from 0, then half cosines, each `t_mul` times as long and `m_mul` times as high as the last.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), in the form of Keras' CosineDecayRestarts. timm's
    cycle_mul and cycle_decay are t_mul and m_mul where min_lr_ratio is 0; with a minimum the heights differ.
    """

    absolute: ClassVar[bool] = False
    jumps: ClassVar[bool] = True

    num_warmup_steps: Length = 0
    """Updates of the linear warm-up from 0."""
    first_decay_steps: PositiveLength
    """Updates of the first cosine."""
    t_mul: PositiveNumber = 2.0
    """Factor on the length of each further cosine, at least 1."""
    m_mul: PositiveNumber = 1.0
    """Factor on the height of each further cosine."""
    min_lr_ratio: Fraction = 0.0
    """The lowest factor."""
    cycle_limit: Count = 0
    """Cosines after which the factor stays at the lowest; 0: no limit."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.t_mul < 1:
            self.refuse("t_mul", f"must be >= 1; got {self.t_mul}")
        return self

    def lr_at(self, update: int) -> float:
        if update < self.num_warmup_steps:
            return update / self.num_warmup_steps
        since = update - self.num_warmup_steps
        cycle = self._cycle_at(since)
        if self.cycle_limit and cycle >= self.cycle_limit:
            return self.min_lr_ratio
        begun, length = self._begun(cycle), self.first_decay_steps * self.t_mul**cycle
        cosine = 0.5 * self.m_mul**cycle * (1.0 + math.cos(math.pi * max(0.0, since - begun) / length))
        return (1.0 - self.min_lr_ratio) * cosine + self.min_lr_ratio

    def _cycle_at(self, since: int) -> int:
        """Return the number of the cosine, from 0, that runs `since` updates after the warm-up."""
        if self.t_mul == 1.0:
            return since // self.first_decay_steps
        growth = self.t_mul - 1.0
        cycle = math.log1p(since / self.first_decay_steps * growth) / math.log1p(growth)
        near = round(cycle)
        if abs(cycle - near) > 1e-6 * max(1.0, cycle):
            return math.floor(cycle)
        return near if since >= self._begun_exactly(near) else near - 1  # what the logarithm's rounding would decide

    def _begun(self, cycle: int) -> float:
        """Return the updates from the end of the warm-up to the start of a cosine."""
        if self.t_mul == 1.0:
            return float(self.first_decay_steps * cycle)
        return self.first_decay_steps * math.expm1(cycle * math.log1p(self.t_mul - 1.0)) / (self.t_mul - 1.0)

    def _begun_exactly(self, cycle: int) -> fractions.Fraction:
        """Return the same as a fraction, with t_mul as the decimal number that it was written as."""
        t_mul = fractions.Fraction(repr(self.t_mul))
        return self.first_decay_steps * (t_mul**cycle - 1) / (t_mul - 1)

    def summary(self) -> str:
        return f"× 1 ↘ {short(self.min_lr_ratio)} ({self.first_decay_steps}), again × {self.t_mul} long"


@SCHEDULE_REGISTRY.register("chebyshev")
class Chebyshev(Schedule):
    """Reciprocals of Chebyshev nodes in fractal order: single updates far above the lr, among many below.

    Over the run, rounded up to a power of two. Source: Agarwal et al. 2021 (arXiv:2103.01338), with the nodes
    of pytorch_optimizer's get_chebyshev_schedule, which begins its order two updates later.
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"
    jumps: ClassVar[bool] = True

    num_training_steps: RunLength = None
    """The length of the run; left out, the horizon's."""
    small_m: PositiveNumber = 0.05
    """Lower end of the spectrum: the highest factor is near 1 / small_m."""
    big_m: PositiveNumber = 1.0
    """Upper end of the spectrum: the lowest factor is near 1 / big_m."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.small_m >= self.big_m:
            self.refuse("small_m", f"must be < big_m; got {self.small_m} with big_m {self.big_m}")
        return self

    def lr_at(self, update: int) -> float:
        assert self.num_training_steps is not None, "resolved(horizon) comes first"
        nodes = 1 << max(0, self.num_training_steps - 1).bit_length()
        node = _fractal(min(update, self.num_training_steps - 1), nodes)
        middle, radius = (self.big_m + self.small_m) / 2.0, (self.big_m - self.small_m) / 2.0
        return 1.0 / (middle - radius * math.cos((node + 0.5) * math.pi / nodes))

    def summary(self) -> str:
        return f"× {short(1 / self.big_m)} to {short(1 / self.small_m)} ({self.num_training_steps})"


def _fractal(index: int, nodes: int) -> int:
    """Return what stands at `index` in the fractal order of `nodes`, a power of two, numbers."""
    if nodes == 1:
        return 0
    inner = _fractal(index // 2, nodes // 2)
    return inner if index % 2 == 0 else nodes - 1 - inner
