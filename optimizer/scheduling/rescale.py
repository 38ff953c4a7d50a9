"""Where a curve is entered so that the lr goes on as it was, and the way along the curve from there."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Self

from ..schedules.base import Schedule
from ..schedules.sampling import sample_steps

NEAR = 0.01
"""How far off the lr may be, in proportion, at the position where a curve is entered."""

MOST = 100_000
"""Positions that are looked at before the search goes on around the best of them."""

NOISE = 1e-12
"""What two lrs differ by, in proportion to the curve's highest, where only rounding tells them apart."""


@dataclass(frozen=True)
class CurveWarp:
    """The map from updates to positions on a curve that was entered elsewhere than at its beginning.

    at: the first update of the map. position: where it is on the curve. rate: positions that an update takes.
    """

    at: int
    position: int
    rate: float

    def position_at(self, update: int) -> int:
        """Return the position on the curve, to a whole one, that `update` runs at."""
        return update if update < self.at else self.position + round((update - self.at) * self.rate)

    def state(self) -> dict[str, Any]:
        """Return the map as plain values."""
        return asdict(self)

    def mirror(self) -> tuple[int, int, float]:
        """Return the map as a parameter group carries it."""
        return self.at, self.position, self.rate

    @classmethod
    def from_state(cls, state: Any) -> Self | None:
        """Return the map that `state` or `mirror` gave, None for None. Raises ValueError for anything else."""
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


def entry_at(schedule: Schedule, share: float, lr: float, update: int, rising: bool | None = None) -> CurveWarp:
    """Return the entry into `schedule` at which `update` runs at `lr`, and the curve ends when it would anyway.

    share: what the curve's value is multiplied with to give an lr. rising: whether the lr was on its way up, which
    tells a warm-up from a decay that pass the same lr; None: not known. Of several such positions it is the nearest
    to `update` in proportion, as a longer run moves them all in proportion. A curve without a length goes on at its
    own pace. Raises ValueError if the curve neither comes within 1 % of `lr` nor passes it smoothly.
    """
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"lr: must be a number >= 0; got {lr}")
    curve, pace = schedule.bind(), schedule.step_length()
    length = getattr(schedule, schedule.length_field or "", None)
    last = length - 1 if isinstance(length, int) else max(2 * update, 1000) // pace
    search = _Search(cache(lambda step: curve.lr_at(step * pace) * share), last, lr, rising)
    step = search.nearest_to(update // pace)
    if step is None:
        lowest, highest = search.span()
        raise ValueError(
            f"lr: the schedule {schedule.key} goes from {lowest:g} to {highest:g} and never comes within"
            f" {NEAR:.0%} of {lr:g}, the lr to go on from. Give it a curve that does, or override the lr: the curve"
            f" then goes on at update {update}."
        )
    position = step * pace + update % pace
    end = (last + 1) * pace - 1
    rate = (end - position) / (end - update) if isinstance(length, int) and update < end else 1.0
    return CurveWarp(update, position, rate)


class _Search:
    """Looks for an lr along a curve.

    value: the lr at a step. last: the last step that is looked at. rising: the direction that is preferred.
    """

    def __init__(self, value: Callable[[int], float], last: int, lr: float, rising: bool | None) -> None:
        self._value = value
        self._last = last
        self._lr = lr
        self._rising = rising
        self._coarse = sample_steps(last + 1, MOST)
        self._noise = NOISE * self.span()[1]

    def span(self) -> tuple[float, float]:
        """Return the lowest and the highest lr."""
        values = [self._value(step) for step in self._coarse]
        return min(values), max(values)

    def nearest_to(self, here: int) -> int | None:
        """Return the step where the curve is at the lr, the nearest to `here` in the preferred direction."""

        def distance(step: int) -> float:
            return abs(math.log((step + 1) / (here + 1)))

        misses = [math.inf, *(self._miss(step) for step in self._coarse), math.inf]
        found: list[int] = []
        for index in sorted(range(len(self._coarse)), key=lambda index: distance(self._coarse[index])):
            if misses[index + 1] > min(misses[index], misses[index + 2]) or not self._may_be_around(index):
                continue
            step = min(self._around(index), key=lambda step: (self._miss(step), distance(step)))
            if self._is_at(step):
                if self._rising is None or self._goes(step) in (0.0, 1.0 if self._rising else -1.0):
                    return step
                found.append(step)
        return found[0] if found else None

    def _around(self, index: int) -> range:
        return range(self._coarse[max(index - 1, 0)], self._coarse[min(index + 1, len(self._coarse) - 1)] + 1)

    def _may_be_around(self, index: int) -> bool:
        values = [self._value(step) for step in self._coarse[max(index - 1, 0) : index + 2]]
        return min(values) * (1 - NEAR) - self._noise <= self._lr <= max(values) * (1 + NEAR) + self._noise

    def _miss(self, step: int) -> float:
        miss = abs(self._value(step) - self._lr)
        return miss if miss > self._noise else 0.0

    def _is_at(self, step: int) -> bool:
        return self._miss(step) <= NEAR * self._lr or any(
            0 <= before < self._last and self._passes(before) for before in (step - 1, step)
        )

    def _passes(self, before: int) -> bool:
        """Return whether the curve passes the lr after step `before`, and not by a jump: a warm-up's steps are wide."""
        low, high = sorted((self._value(before), self._value(before + 1)))
        beside = [self._value(i + 1) - self._value(i) for i in (before - 1, before + 1) if 0 <= i < self._last]
        return low <= self._lr <= high and high - low <= 2 * max(map(abs, beside), default=0.0)

    def _goes(self, step: int) -> float:
        change = self._value(min(step + 1, self._last)) - self._value(max(step - 1, 0))
        return math.copysign(1.0, change) if abs(change) > self._noise else 0.0
