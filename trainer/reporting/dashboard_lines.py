"""Lines of metrics as a dashboard takes them: names in groups, and the order in which a run writes the lines."""

from collections.abc import Iterator
from pathlib import Path

from ..interfaces.metrics_sink import MetricsLine
from ..run_layout import METRICS
from .metrics_file import HELD_OUT, read_metrics

Place = tuple[int, int]
"""The updates done at a line, and whether it is of an evaluation, which comes after the update: their order."""

BEFORE_ALL: Place = (0, -1)
"""The place before each line."""
_GROUPS = ("lr/", "grad_norm/", "skipped/")
"""The beginnings of names of a training line that are groups already."""
_SPEED = ("updates_per_second", "data_wait")
_NOT_VALUES = ("split", "step")


def place_of(split: str, step: int) -> Place:
    """Return the place of the line of a split and a step."""
    return (step, 1) if split == HELD_OUT else (step + 1, 0)


def end_of(step: int) -> Place:
    """Return the last place in the history of a run that has done `step` updates."""
    return (step, 1)


def lines_after(run_dir: Path, place: Place) -> Iterator[MetricsLine]:
    """Yield the lines of the run's metrics.jsonl that come after a place."""
    for line in read_metrics(run_dir / METRICS):
        if place_of(line["split"], line["step"]) > place:
            yield line


def grouped_values(line: MetricsLine) -> dict[str, float]:
    """Return the values of a line by a name that no value of the other split has.

    A dashboard draws a panel for each name and a section for each first part: `train/loss`, `held_out/accuracy`,
    `lr/head`, `grad_norm/head`, `speed/updates_per_second`.
    """
    split = line["split"]
    return {_grouped(split, name): float(value) for name, value in line.items() if name not in _NOT_VALUES}


def _grouped(split: str, name: str) -> str:
    if split == HELD_OUT:
        return f"{HELD_OUT}/{name}"
    if name.startswith(_GROUPS):
        return name
    return f"speed/{name}" if name in _SPEED else f"{split}/{name}"
