"""Curves as pictures: a matplotlib figure, an SVG, or text for a terminal."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        label: Its name in the legend.
        points: Pairs of update and value, in rising order.
        style: A line style of matplotlib.
    """

    label: str
    points: Sequence[tuple[int, float]]
    style: str = "-"

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [value for _, value in self.points]


@dataclass(frozen=True)
class Panel:
    """Lines over the same updates.

    Attributes:
        title: The text above the panel.
        y_label: The text beside the axis of the values.
        series: The lines.
        log: Whether that axis is logarithmic; None: if a linear one would hide a line.
    """

    title: str
    y_label: str
    series: Sequence[Series]
    log: bool | None = None


def figure(panels: Sequence[Panel]) -> "Figure":
    """Return a matplotlib figure with one panel below the other.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    drawn = Figure(figsize=(8, 4.5 if len(panels) == 1 else 2.8 * len(panels)), layout="constrained")
    rows = drawn.subplots(len(panels), squeeze=False)
    for axes, panel in zip(rows[:, 0], panels, strict=True):
        axes.set(title=panel.title, xlabel="update", ylabel=panel.y_label)
        axes.grid(alpha=0.3)
        for series in panel.series:
            axes.plot(*zip(*series.points, strict=True), series.style, label=series.label)
        values = [value for series in panel.series for value in series.values]
        if _is_log(panel):
            axes.set_yscale("log")
        elif all(value >= 0 for value in values):
            axes.set_ylim(0, 1.05 * max(values) or None)
        axes.legend()
    return drawn


def svg(panels: Sequence[Panel]) -> str:
    """Return the figure as SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    written = io.StringIO()
    figure(panels).savefig(written, format="svg")
    return written.getvalue()


def notebook_svg(panels: Sequence[Panel]) -> str | None:
    """Return the figure as SVG; None without matplotlib, so that a notebook shows the object's text instead."""
    try:
        return svg(panels)
    except ImportError:
        return None


def text(panels: Sequence[Panel], width: int = 72, height: int = 10) -> str:
    """Return a chart of every line as text, `width` columns wide and `height` lines high."""
    charts = [
        "\n".join([f"{series.label}, {panel.y_label}", *_chart(series, width, height)])
        for panel in panels
        for series in panel.series
    ]
    return "\n\n".join(charts)


def _chart(series: Series, width: int, height: int) -> list[str]:
    last = series.points[-1][0]
    columns: list[list[float]] = [[] for _ in range(width)]
    for update, value in series.points:
        columns[min(width - 1, update * width // (last + 1))].append(value)
    top = max(series.values) or 1.0
    rows = [[" "] * width for _ in range(height)]
    for column, values in enumerate(columns):
        for value in values:
            rows[height - 1 - min(height - 1, int(value / top * height))][column] = "•"
    labels = [f"{top:.2e}", *[""] * (height - 2), "0"]
    lines = [f"{label:>9} ┤{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':>9} └{'─' * width}", f"{'':>11}0{f'update {last}':>{width - 1}}"]


def _is_log(panel: Panel) -> bool:
    if panel.log is not None:
        return panel.log
    peaks = [max(series.values) for series in panel.series]
    return min(peaks) > 0 and max(peaks) > 20 * min(peaks)  # on one linear scale the smallest would be a flat line
