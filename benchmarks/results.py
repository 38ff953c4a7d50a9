"""The results of the runs: medians over them, and the worst of them."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Mapping[str, Any]
"""Results by section, as `sections.py` keeps them."""
Times = Mapping[str, float]


def read(folder: Path) -> list[Run]:
    """Return the runs whose results are in a folder.

    Raises:
        FileNotFoundError: There are none.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[0-9].json"))]
    if not runs:
        raise FileNotFoundError(f"{folder}: no results; measure first: python benchmarks/sections.py {folder}")
    return runs


def at(run: Run, path: str) -> Times:
    """Return the values of a run at a path like `checkpoints/saves`: values by name, none where it was not measured."""
    found: Any = run
    for part in path.split("/"):
        found = found.get(part, {})
    return found  # type: ignore[no-any-return]


def medians(runs: Sequence[Run], path: str) -> dict[str, float]:
    """Return the median over the runs of each value at a path."""
    names = dict.fromkeys(name for run in runs for name in at(run, path))
    return {name: statistics.median(_defined(at(run, path).get(name) for run in runs)) for name in names}


def worst(runs: Sequence[Run], value: Callable[[Run], float | None]) -> float | None:
    """Return the largest value of the runs that have one, None if no run has one."""
    return max(_defined(map(value, runs)), default=None)


def ratio(run: Run, path: str, name: str, against: str) -> float | None:
    """Return the quotient of two values of a run, None where it lacks one."""
    times = at(run, path)
    return times[name] / times[against] if name in times and against in times else None


def strict_bandwidth(run: Run, title: str, way: str) -> float | None:
    """Return the highest bandwidth beside the steps of a title, in bytes a second, by which limits are shortest."""
    return max(at(run, f"{title}/bandwidths/{way}").values(), default=None)


def limit(run: Run, title: str, name: str, elements: int, way: str = "together") -> float | None:
    """Return the seconds that a step takes at least because of the bytes that it must move.

    `way` is "together" or "alone": whose bandwidth counts.
    """
    bytes_each, bandwidth = at(run, f"{title}/bytes_each").get(name), strict_bandwidth(run, title, way)
    return None if bytes_each is None or bandwidth is None else bytes_each * elements / bandwidth


def of_limit(run: Run, title: str, way: str, name: str, elements: int) -> float | None:
    """Return how many times the limit a step takes. `way` is "together" or "alone"."""
    least, seconds = limit(run, title, name, elements, way), at(run, f"{title}/{way}").get(name)
    return None if least is None or seconds is None else seconds / least


def spread(runs: Sequence[Run], paths: Sequence[str]) -> dict[str, float]:
    """Return by how much the ratio to the first contender differs between the runs, by contender."""
    apart: dict[str, float] = {}
    for path in paths:
        first, *others = medians(runs, path) or [""]
        for name in others:
            ratios = _defined(ratio(run, path, name, first) for run in runs)
            apart[f"{path.split('/')[0]}: {name}"] = max(ratios) / min(ratios) - 1
    return apart


def _defined(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
