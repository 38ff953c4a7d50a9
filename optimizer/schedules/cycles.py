"""Schedules that rise again: warm restarts, and Chebyshev nodes in fractal order. Factors on the lr."""

import fractions
import math
from typing import ClassVar, Self

from pydantic import model_validator

from ..config.fields import Count, Fraction, PositiveNumber
from .base import SCHEDULE_REGISTRY, Schedule, short
from .durations import PositiveDuration, RunLength
from .warmup import LinearWarmup


@SCHEDULE_REGISTRY.register("cosine_decay_restarts", aliases=("sgdr",))
class CosineDecayRestarts(LinearWarmup):
    """Linear warm-up from 0 to 1, then half cosines, each t_mul times as long and m_mul times as high as the last.

    Formula:
        factor(k) = k / W, for k < W;
        factor(k) = m + (1 - m) * m_mul^i * (1 + cos(pi * (k - W - s_i) / d_i)) / 2, in cosine i = 0, 1, 2, ...;
        factor(k) = m, after cycle_limit cosines, if that is not 0;
        with W = num_warmup_steps, m = min_lr_ratio, d_i = first_decay_steps * t_mul^i, the length of cosine i, and
        s_i = d_0 + ... + d_(i-1), its start.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), in the form of Keras' CosineDecayRestarts. timm's
    cycle_mul and cycle_decay are t_mul and m_mul if min_lr_ratio is 0; with a minimum the heights differ.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["cosine_decay_restarts"](first_decay_steps=10, t_mul=2.0, m_mul=0.5)
        >>> [round(schedule.lr_at(k), 4) for k in (0, 5, 10, 20, 29, 30)]
        [1.0, 0.5, 0.5, 0.25, 0.0031, 0.25]
    """

    jumps: ClassVar[bool] = True

    first_decay_steps: PositiveDuration
    """Updates of the first cosine."""
    t_mul: PositiveNumber = 2.0
    """Duration of each cosine as a multiple of the one before, at least 1."""
    m_mul: PositiveNumber = 1.0
    """Height of each cosine as a multiple of the one before."""
    min_lr_ratio: Fraction = 0.0
    """The lowest factor."""
    cycle_limit: Count = 0
    """Cosines after which the lowest factor holds; 0: no limit."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.t_mul < 1:
            self.refuse("t_mul", f"must be >= 1; got {self.t_mul}")
        return self

    def after_warmup(self, update: int) -> float:
        cycle = self._cycle_at(update)
        if self.cycle_limit and cycle >= self.cycle_limit:
            return self.min_lr_ratio
        start, length = self._cycle_start(cycle), self.first_decay_steps * self.t_mul**cycle
        cosine = 0.5 * self.m_mul**cycle * (1.0 + math.cos(math.pi * max(0.0, update - start) / length))
        return (1.0 - self.min_lr_ratio) * cosine + self.min_lr_ratio

    def _cycle_at(self, update: int) -> int:
        """Return the number of the cosine, from 0, that runs `update` updates after the warm-up."""
        if self.t_mul == 1.0:
            return update // self.first_decay_steps
        growth = self.t_mul - 1.0
        cycle = math.log1p(update / self.first_decay_steps * growth) / math.log1p(growth)
        near = round(cycle)
        if abs(cycle - near) > 1e-6 * max(1.0, cycle):
            return math.floor(cycle)
        return (
            near if update >= self._exact_cycle_start(near) else near - 1
        )  # the rounding of the logarithm would decide

    def _cycle_start(self, cycle: int) -> float:
        """Return the updates from the end of the warm-up to the start of a cosine."""
        if self.t_mul == 1.0:
            return float(self.first_decay_steps * cycle)
        return self.first_decay_steps * math.expm1(cycle * math.log1p(self.t_mul - 1.0)) / (self.t_mul - 1.0)

    def _exact_cycle_start(self, cycle: int) -> fractions.Fraction:
        """Return the same as an exact fraction; t_mul is taken as the decimal number that its repr shows."""
        t_mul = fractions.Fraction(repr(self.t_mul))
        return self.first_decay_steps * (t_mul**cycle - 1) / (t_mul - 1)

    def summary(self) -> str:
        return f"× 1 ↘ {short(self.min_lr_ratio)} ({self.first_decay_steps}), again × {self.t_mul} long"


@SCHEDULE_REGISTRY.register("chebyshev")
class Chebyshev(Schedule):
    """Reciprocals of Chebyshev nodes in fractal order: few updates far above the lr, most of them near its lower end.

    Formula:
        factor(k) = 1 / (c - r * cos(pi * (n_k + 0.5) / M)), for k < N; the last value holds;
        with c = (big_m + small_m) / 2, r = (big_m - small_m) / 2, N = num_training_steps, and M the smallest
        power of two >= N.
        n_0, n_1, ... is the fractal order of M: (0) for M = 1, and for 2 * M each n of the order of M followed by
        2 * M - 1 - n.

    Source: Agarwal et al. 2021 (arXiv:2103.01338), with the nodes of pytorch_optimizer's get_chebyshev_schedule, whose
    order starts two updates later.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> schedule = SCHEDULE_REGISTRY["chebyshev"](num_training_steps=4, small_m=0.1)
        >>> [round(schedule.lr_at(k), 3) for k in (0, 1, 2, 3, 1000)]
        [7.449, 1.035, 2.647, 1.385, 1.385]
    """

    absolute: ClassVar[bool] = False
    length_field: ClassVar[str | None] = "num_training_steps"
    jumps: ClassVar[bool] = True

    num_training_steps: RunLength = None
    """Updates in the run. If omitted or `auto`, the horizon's total_steps."""
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
        node = _fractal_number(min(update, self.num_training_steps - 1), nodes)
        middle, radius = (self.big_m + self.small_m) / 2.0, (self.big_m - self.small_m) / 2.0
        return 1.0 / (middle - radius * math.cos((node + 0.5) * math.pi / nodes))

    def summary(self) -> str:
        return f"× {short(1 / self.big_m)} to {short(1 / self.small_m)} ({self.num_training_steps})"


def _fractal_number(index: int, nodes: int) -> int:
    """Return the number at `index` in the fractal order of the numbers below `nodes`, a power of two."""
    if nodes == 1:
        return 0
    inner = _fractal_number(index // 2, nodes // 2)
    return inner if index % 2 == 0 else nodes - 1 - inner
