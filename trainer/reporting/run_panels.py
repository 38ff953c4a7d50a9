"""Runs as panels: losses, metrics, gradient norms and learning rates, with resumes and the best checkpoint marked."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.charts import Mark, Panel
from optimizer.charts import Series as Line

from ..checkpoint.names import read_pointer, step_of
from ..run_layout import BEST, CHECKPOINTS, METRICS, TIMELINE
from .metric_series import Metrics, Name, Series
from .metrics_file import HELD_OUT
from .timeline import STARTED, read_timeline

EPISODES = {"success": "Episodes in which the task was solved", "return": "Sum of rewards of an episode"}
"""The metrics of episodes, with the titles of their panels."""
MOST_PANELS = 24
_FAMILIES = {"lr": "Learning rate of each component", "grad_norm": "Gradient norm of each component"}
_LABELS = {"lr": "learning rate", "grad_norm": "L2 norm before clipping"}
_NOT_DRAWN = ("updates_per_second", "data_wait", "epoch", "step")
_STROKES = ("-", "--", "-.", ":")
_SPLITS = {"train": ("training batch", "-"), HELD_OUT: ("held out", "o-")}


@dataclass(frozen=True)
class DrawnRun:
    """The curves of a run: its series, the updates at which it was resumed, and those of its best checkpoint."""

    name: str
    metrics: Metrics
    resumes: Sequence[int] = ()
    best: int | None = None

    def marks(self, number: int | None) -> list[Mark]:
        """Return the marks of resumes and of the best checkpoint. number: the run's among several; None: the only."""
        of, colour = ("", "0.3") if number is None else (f", {self.name}", f"C{number % 10}")
        marks = [Mark(f"resumed{of}", step, ":", colour) for step in self.resumes]
        return marks if self.best is None else [*marks, Mark(f"best checkpoint{of}", self.best, "--", colour)]


def read_run(run_dir: Path, name: str) -> DrawnRun:
    """Return the curves of the run in a directory.

    Raises:
        OSError: A file of it cannot be read.
    """
    starts = [line["step"] for line in read_timeline(run_dir / TIMELINE) if line["event"] == STARTED]
    best = read_pointer(run_dir / CHECKPOINTS, BEST)
    metrics = Metrics(run_dir / METRICS)
    return DrawnRun(name, metrics, sorted(set(starts[1:])), None if best is None else step_of(best))


def smoothed(points: Sequence[tuple[int, float]], weight: float) -> list[tuple[int, float]]:
    """Return an exponential moving average of values, without a bias to 0 at the beginning.

    Args:
        points: Updates and values.
        weight: Of the average until then, against the next value: 0 leaves the values as they are.
    """
    total = share = 0.0
    found = []
    for step, value in points:
        total, share = total * weight + value * (1 - weight), share * weight + (1 - weight)
        found.append((step, total / share))
    return found


class RunPanels:
    """The panels of runs on the same axes.

    Args:
        runs: The runs.
        smoothing: The weight of `smoothed` for losses, training metrics and gradient norms.
    """

    def __init__(self, runs: Sequence[DrawnRun], smoothing: float = 0.0) -> None:
        self._runs, self._smoothing = runs, smoothing
        names: dict[Name, None] = {}
        for run in runs:
            names |= dict.fromkeys(name for name, series in run.metrics.series.items() if series.points())
        self._names = list(names)

    def all(self) -> list[Panel]:
        """Return every panel that has a line: losses first."""
        metrics = [name for _, name in self._names]
        own = [name for name in dict.fromkeys(metrics) if "/" not in name and name not in (*_NOT_DRAWN, "loss")]
        losses = dict.fromkeys(name for name in metrics if name == "loss" or name.startswith("loss/"))
        found = [self.losses(name) for name in sorted(losses, key=lambda name: name != "loss")]
        found += [self.episodes(name) if name in EPISODES else self.metric(name) for name in own]
        found += [panel for family in ("grad_norm", "lr") if (panel := self.family(family)).series]
        return found

    def losses(self, name: str = "loss") -> Panel:
        """Return the panel of a loss over training batches and held-out samples."""
        title = "Losses" if name == "loss" else f"Loss {name.removeprefix('loss/')}"
        return self._panel(title, name, self._of_splits(name), None if self._is_signed(name) else True)

    def metric(self, name: str) -> Panel:
        """Return the panel of a metric."""
        return self._panel(name, name, self._of_splits(name), False)

    def episodes(self, name: str) -> Panel:
        """Return the panel of a metric of episodes."""
        return self._panel(EPISODES[name], name, self._of_splits(name, own_colours=True), False)

    def family(self, family: str) -> Panel:
        """Return the panel of values of each component: lr or grad_norm."""
        prefix = f"{family}/"
        components = sorted(
            {name.removeprefix(prefix) for split, name in self._names if split == "train" and name.startswith(prefix)}
        )
        lines = []
        for (run_number, run), (colour, component) in itertools.product(enumerate(self._runs), enumerate(components)):
            series = run.metrics.series.get(("train", prefix + component))
            if series is not None and series.points():
                label = component if len(self._runs) == 1 else f"{run.name}: {component}"
                stroke = _STROKES[run_number % len(_STROKES)]
                lines.append(self._line(label, series, stroke, colour, family != "lr"))
        values = [value for line in lines for value in line.values]
        is_log = bool(values) and family == "grad_norm" and min(values) > 0
        return self._panel(_FAMILIES[family], _LABELS[family], lines, is_log or None)

    def _of_splits(self, name: str, own_colours: bool = False) -> list[Line]:
        lines = []
        for number, run in enumerate(self._runs):
            for place, (split, (label, style)) in enumerate(_SPLITS.items()):
                series = run.metrics.series.get((split, name))
                if series is None or not series.points():
                    continue
                several = len(self._runs) > 1
                shown = f"{run.name}: {label}" if several else label
                colour = number if several else place
                lines.append(
                    self._line(shown, series, style, 0 if own_colours and not several else colour, split == "train")
                )
        return lines

    def _line(self, label: str, series: Series, style: str, colour: int, smooths: bool) -> Line:
        points, band = series.points(), series.ranges()
        if not (smooths and self._smoothing > 0 and len(points) > 2):
            return Line(label, points, style, colour, band=band if smooths else ())
        return Line(label, smoothed(points, self._smoothing), style, colour, () if band else points, band)

    def _panel(self, title: str, y_label: str, lines: Sequence[Line], log: bool | None) -> Panel:
        several = len(self._runs) > 1
        marks = [mark for number, run in enumerate(self._runs) for mark in run.marks(number if several else None)]
        return Panel(title, y_label, lines, log, marks=marks)

    def _is_signed(self, name: str) -> bool:
        """Return whether a loss is 0 or less somewhere."""
        found = [run.metrics.series.get((split, name)) for run in self._runs for split in _SPLITS]
        return any(one is not None and one.least is not None and one.least[1] <= 0 for one in found)
