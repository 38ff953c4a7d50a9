"""The position on a curve from which the lr continues without a jump, and the map from updates to positions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Self

from ..schedules.base import Schedule
from ..schedules.sampling import sample_steps
from ..types import JsonObject

TOLERANCE = 0.01
"""The largest relative difference between the lr and the curve at the position where a run continues."""

COARSE_POSITIONS = 100_000
"""Positions that are compared before the search refines the best of them."""

NOISE = 1e-12
"""The largest difference between two lrs, in proportion to the curve's highest, that may be rounding."""


@dataclass(frozen=True)
class CurveWarp:
    """The map from updates to positions on a curve that a run continues at another position than its update.

    Attributes:
        at: the first update of the map.
        position: its position on the curve.
        rate: positions for each update.
    """

    at: int
    position: int
    rate: float

    def position_at(self, update: int) -> int:
        """Return the position on the curve, rounded to a whole one, that `update` runs at."""
        return update if update < self.at else self.position + round((update - self.at) * self.rate)

    def state(self) -> JsonObject:
        """Return the map as plain values."""
        return asdict(self)

    def mirror(self) -> tuple[int, int, float]:
        """Return the map as a parameter group carries it."""
        return self.at, self.position, self.rate

    @classmethod
    def from_state(cls, state: object) -> Self | None:
        """Return the map that `state()` or `mirror()` returned, or None for None.

        Raises:
            ValueError: `state` is of another form.
        """
        names = [field.name for field in fields(cls)]
        if state is None:
            return None
        if isinstance(state, list | tuple) and len(state) == len(names):
            state = dict(zip(names, state, strict=True))
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise ValueError(f"scheduler.entry: must have exactly {', '.join(names)}; got {state!r}")
        for name in ("at", "position"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"scheduler.entry.{name}: must be a whole number >= 0; got {state[name]!r}")
        rate = state["rate"]
        if type(rate) not in (int, float) or not 0.0 <= rate < math.inf:
            raise ValueError(f"scheduler.entry.rate: must be a number >= 0; got {rate!r}")
        return cls(state["at"], state["position"], float(rate))


def warp_to_lr(schedule: Schedule, ratio: float, lr: float, update: int, rising: bool | None = None) -> CurveWarp:
    """Return the map with which `update` runs at `lr`, and the curve ends when it would have ended anyway.

    If several positions match, the one nearest to `update` in proportion is used, as a longer run moves all positions
    in proportion. A curve without a length continues at its own pace.

    Args:
        schedule: the curve.
        ratio: the factor from the curve's value to the lr.
        lr: the lr of `update`.
        update: the first update of the map, from 0.
        rising: whether the lr was rising, which separates a warm-up from a decay that pass the same lr; None: unknown.

    Raises:
        ValueError: The curve neither comes within 1 % of `lr` nor passes it smoothly.
    """
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"lr: must be a number >= 0; got {lr}")
    curve, step_length = schedule.bind(), schedule.step_length()
    length = getattr(schedule, schedule.length_field or "", None)
    last = length - 1 if isinstance(length, int) else max(2 * update, 1000) // step_length
    search = _Search(cache(lambda step: curve.lr_at(step * step_length) * ratio), last, lr, rising)
    step = search.nearest_to(update // step_length)
    if step is None:
        lowest, highest = search.span()
        raise ValueError(
            f"lr: the schedule {schedule.key} goes from {lowest:g} to {highest:g} and never comes within"
            f" {TOLERANCE:.0%} of {lr:g}, the lr to continue from. Give it a curve that does, or override the lr: the"
            f" curve then continues at update {update}."
        )
    position = step * step_length + update % step_length
    end = (last + 1) * step_length - 1
    rate = (end - position) / (end - update) if isinstance(length, int) and update < end else 1.0
    return CurveWarp(update, position, rate)


class _Search:
    """Looks for an lr along a curve."""

    def __init__(self, value: Callable[[int], float], last: int, lr: float, rising: bool | None) -> None:
        """Look for `lr` in `value`, the lr by step, up to the step `last`; prefer the direction `rising`."""
        self._value = value
        self._last = last
        self._lr = lr
        self._rising = rising
        self._coarse = sample_steps(last + 1, COARSE_POSITIONS)
        self._noise = NOISE * self.span()[1]

    def span(self) -> tuple[float, float]:
        """Return the lowest and the highest lr."""
        values = [self._value(step) for step in self._coarse]
        return min(values), max(values)

    def nearest_to(self, here: int) -> int | None:
        """Return the step where the curve is at the lr, the nearest to `here` in the preferred direction."""

        def distance(step: int) -> float:
            return abs(math.log((step + 1) / (here + 1)))

        misses = [math.inf, *(self._distance_to_lr(step) for step in self._coarse), math.inf]
        found: list[int] = []
        for index in sorted(range(len(self._coarse)), key=lambda index: distance(self._coarse[index])):
            if misses[index + 1] > min(misses[index], misses[index + 2]) or not self._may_be_around(index):
                continue
            step = min(self._neighbourhood(index), key=lambda step: (self._distance_to_lr(step), distance(step)))
            if self._matches(step):
                if self._rising is None or self._direction(step) in (0.0, 1.0 if self._rising else -1.0):
                    return step
                found.append(step)
        return found[0] if found else None

    def _neighbourhood(self, index: int) -> range:
        return range(self._coarse[max(index - 1, 0)], self._coarse[min(index + 1, len(self._coarse) - 1)] + 1)

    def _may_be_around(self, index: int) -> bool:
        values = [self._value(step) for step in self._coarse[max(index - 1, 0) : index + 2]]
        return min(values) * (1 - TOLERANCE) - self._noise <= self._lr <= max(values) * (1 + TOLERANCE) + self._noise

    def _distance_to_lr(self, step: int) -> float:
        miss = abs(self._value(step) - self._lr)
        return miss if miss > self._noise else 0.0

    def _matches(self, step: int) -> bool:
        return self._distance_to_lr(step) <= TOLERANCE * self._lr or any(
            0 <= before < self._last and self._passes_smoothly(before) for before in (step - 1, step)
        )

    def _passes_smoothly(self, before: int) -> bool:
        """Return whether the curve passes the lr after step `before`, and not by a jump: a warm-up's steps are wide."""
        low, high = sorted((self._value(before), self._value(before + 1)))
        beside = [self._value(i + 1) - self._value(i) for i in (before - 1, before + 1) if 0 <= i < self._last]
        return low <= self._lr <= high and high - low <= 2 * max(map(abs, beside), default=0.0)

    def _direction(self, step: int) -> float:
        change = self._value(min(step + 1, self._last)) - self._value(max(step - 1, 0))
        return math.copysign(1.0, change) if abs(change) > self._noise else 0.0
