"""Series of a run's metrics, thinned out to a bounded length. The smallest and the largest values stay."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optimizer.types import JsonObject

from .metrics_file import HELD_OUT, read_lines

MOST_POINTS = 1000
"""Points of a series at most, while a file is read."""
MOST_SERIES = 400
"""Series of a run at most. Others are left out, and counted."""
_MOST_NAMED = 50
"""Values that are not finite, of which the step is kept."""
_MAX_STEP = 1 << 53
"""The first whole number whose successor JavaScript rounds away."""
_NOT_METRICS = ("split", "step", "epoch")

Name = tuple[str, str]
"""The split and the metric of a series."""


class Series:
    """One metric over the updates. Above `most` points, each stands for several values: their mean, least and largest.

    Args:
        most: Points at most. 2 or more.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most, self._stride, self._open = most, 1, 0
        self._steps: list[int] = []
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._lows: list[float] = []
        self._highs: list[float] = []
        self.nonfinite: list[tuple[int, str]] = []
        """The first values that are not finite, with their steps."""
        self.nonfinite_count = 0
        self.first: tuple[int, float] | None = None
        self.last: tuple[int, float] | None = None
        self.least: tuple[int, float] | None = None
        self.largest: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Add the value at a step."""
        if not math.isfinite(value):
            self.nonfinite_count += 1
            if len(self.nonfinite) < _MOST_NAMED:
                self.nonfinite.append((step, str(value)))
            return
        self.last = (step, value)
        if self.first is None:
            self.first = self.last
        if self.least is None or value < self.least[1]:
            self.least = self.last
        if self.largest is None or value > self.largest[1]:
            self.largest = self.last
        if self._open:  # the last point does not stand for as many values as it may
            self._steps[-1] = step
            self._sums[-1] += value
            self._counts[-1] += 1
            if value < self._lows[-1]:
                self._lows[-1] = value
            elif value > self._highs[-1]:
                self._highs[-1] = value
        else:
            if len(self._steps) == self._most:
                self._halve()
            self._steps.append(step)
            self._sums.append(value)
            self._counts.append(1)
            self._lows.append(value)
            self._highs.append(value)
        self._open = (self._open + 1) % self._stride

    def shrink(self, most: int) -> None:
        """Keep at most `most` points. Nothing is added afterwards."""
        while len(self._steps) > max(most, 2):
            self._halve()

    def _halve(self) -> None:
        """Let each point stand for two of the present ones."""
        pairs = range(0, len(self._steps), 2)
        self._steps = [self._steps[at : at + 2][-1] for at in pairs]
        self._sums = [sum(self._sums[at : at + 2]) for at in pairs]
        self._counts = [sum(self._counts[at : at + 2]) for at in pairs]
        self._lows = [min(self._lows[at : at + 2]) for at in pairs]
        self._highs = [max(self._highs[at : at + 2]) for at in pairs]
        self._stride *= 2

    def values(self) -> JsonObject:
        """Return the points in the order of their steps as plain values. A point of one value has no range."""
        order = sorted(range(len(self._steps)), key=self._steps.__getitem__)
        means = [self._sums[at] / self._counts[at] for at in order]
        found: JsonObject = {"steps": [self._steps[at] for at in order], "values": list(map(_short, means))}
        if any(count > 1 for count in self._counts):
            found["lows"] = [_short(self._lows[at]) for at in order]
            found["highs"] = [_short(self._highs[at]) for at in order]
            found["thinned"] = sum(self._counts)
        if self.nonfinite_count:
            found["nonfinite"] = [list(one) for one in self.nonfinite]
            found["nonfiniteCount"] = self.nonfinite_count
        for name in ("last", "least", "largest"):
            found[name] = getattr(self, name)
        return found

    def points(self) -> list[tuple[int, float]]:
        """Return steps and values, or means of several, in their order; the first and the last as they are."""
        order = sorted(range(len(self._steps)), key=self._steps.__getitem__)
        found = [(self._steps[at], self._sums[at] / self._counts[at]) for at in order]
        if self._stride > 1 and self.first is not None and self.last is not None:
            first, last = self.first, self.last
            found = [first, *(point for point in found if first[0] < point[0] < last[0]), last]
        return found

    def ranges(self) -> list[tuple[int, float, float]]:
        """Return steps, least and largest values of points that stand for several; empty if none does."""
        if all(count == 1 for count in self._counts):
            return []
        order = sorted(range(len(self._steps)), key=self._steps.__getitem__)
        return [(self._steps[at], self._lows[at], self._highs[at]) for at in order]

    def at(self, step: int | None) -> tuple[int, float] | None:
        """Return the step and its value; None if there is none, or if a point stands for several values."""
        if step not in self._steps:
            return None
        place = self._steps.index(step)
        return (step, self._sums[place]) if self._counts[place] == 1 else None

    @property
    def mean(self) -> float | None:
        """The mean of all finite values; None without one."""
        return sum(self._sums) / sum(self._counts) if self._counts else None


class Metrics:
    """The series of a run, from its metrics file.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.series: dict[Name, Series] = {}
        self.lines = self.damaged = 0
        """Lines of the run, and lines that are not of a run."""
        self.left_out: set[Name] = set()
        self.last_step: int | None = None
        """The largest number of updates that a line shows to be done."""
        for line in read_lines(path):
            if line is None or not 0 <= line["step"] < _MAX_STEP:
                self.damaged += 1
            else:
                self.lines += 1
                self._add(line)
        self._drop_copy_of_the_loss()

    def _add(self, line: Mapping[str, Any]) -> None:
        split, step = line["split"], line["step"]
        done = step if split == HELD_OUT else step + 1
        if self.last_step is None or done > self.last_step:
            self.last_step = done
        for name, value in line.items():
            kind = type(value)
            if (kind is not float and kind is not int) or name in _NOT_METRICS:
                continue
            series = self.series.get((split, name)) or self._new((split, name))
            if series is not None:
                series.add(step, _as_float(value))

    def _new(self, name: Name) -> Series | None:
        if len(self.series) >= MOST_SERIES:
            if len(self.left_out) < MOST_SERIES:
                self.left_out.add(name)
            return None
        return self.series.setdefault(name, Series())

    def _drop_copy_of_the_loss(self) -> None:
        """Drop the only single loss of a split, which is the total too."""
        for split in {split for split, _ in self.series}:
            single = [name for name in self.series if name[0] == split and name[1].startswith("loss/")]
            total = self.series.get((split, "loss"))
            if len(single) == 1 and total is not None and total.values() == self.series[single[0]].values():
                del self.series[single[0]]

    def values(self) -> Iterator[JsonObject]:
        """Yield each series as plain values."""
        for (split, name), series in self.series.items():
            yield {"split": split, "name": name, **series.values()}


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an int of hundreds of digits
        return math.inf if number > 0 else -math.inf


def _short(number: float) -> float:
    """Return a number with the digits that a chart can show."""
    return float(f"{number:.6g}")
