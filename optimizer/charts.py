"""Curves as pictures: a matplotlib figure, an SVG, or text for a terminal."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS = "•○×+◆△"
"""The signs of the lines in a chart of text."""
_MOST_INSIDE = 4
"""Entries of a legend that does not hide the lines."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        label: Its name in the legend.
        points: Pairs of update and value, in rising order.
        style: A line style of matplotlib.
        colour: The number of its colour; None: the next one.
        faint: Points that are drawn faintly behind it: the values that it smooths.
        band: Updates with the least and largest values that a point stands for, drawn as a faint band.
    """

    label: str
    points: Points
    style: str = "-"
    colour: int | None = None
    faint: Points = ()
    band: Sequence[tuple[float, float, float]] = ()

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [value for _, value in self.points]


@dataclass(frozen=True)
class Mark:
    """A vertical line.

    Attributes:
        label: Its meaning. One legend entry stands for all marks of a label.
        at: Its place on the horizontal axis.
        style: A line style of matplotlib.
        colour: A colour of matplotlib.
    """

    label: str
    at: float
    style: str = ":"
    colour: str = "0.4"


@dataclass(frozen=True)
class Panel:
    """Lines over the same updates.

    Attributes:
        title: The text above the panel.
        y_label: The text beside the axis of the values.
        series: The lines.
        log: Whether that axis is logarithmic; None: if a linear one would hide a line.
        x_label: The text below the other axis.
        x_log: Whether the other axis is logarithmic.
        marks: Vertical lines.
    """

    title: str
    y_label: str
    series: Sequence[Series]
    log: bool | None = None
    x_label: str = "update"
    x_log: bool = False
    marks: Sequence[Mark] = ()


def figure(panels: Sequence[Panel], columns: int = 1) -> "Figure":
    """Return a matplotlib figure of panels.

    Args:
        panels: The panels, row by row.
        columns: Panels in a row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    rows = -(-len(panels) // columns)
    height = 4.5 if len(panels) == 1 else 2.8 * rows
    drawn = Figure(figsize=(8 if columns == 1 else 6 * columns, height), layout="constrained")
    grid = drawn.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return drawn


def _draw(axes: "Axes", panel: Panel) -> None:
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.grid(alpha=0.3)
    for number, series in enumerate(panel.series):
        colour = f"C{(number if series.colour is None else series.colour) % 10}"
        if series.band:
            steps, lows, highs = zip(*series.band, strict=True)
            axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
        if series.faint:
            axes.plot(*zip(*series.faint, strict=True), "-", color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(*zip(*series.points, strict=True), series.style, color=colour, label=series.label, markersize=4)
    named: set[str] = set()
    for mark in panel.marks:
        label = None if mark.label in named else mark.label
        axes.axvline(mark.at, linestyle=mark.style, color=mark.colour, linewidth=1.2, label=label)
        named.add(mark.label)
    values = _finite(panel)
    if panel.x_log:
        axes.set_xscale("log")
    if _is_log(panel):
        axes.set_yscale("log")
    elif values and min(values) >= 0 and not panel.x_log:
        axes.set_ylim(0, 1.05 * max(values) or None)
    if values:
        outside = len(panel.series) + len(named) > _MOST_INSIDE
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": "small"} if outside else {}
        axes.legend(**place)


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


def text(panels: Sequence[Panel], width: int = 72, height: int = 10, together: bool = False) -> str:
    """Return charts as text.

    Args:
        panels: The panels.
        width: Columns of a chart, beside the 11 of its axis.
        height: Lines of a chart.
        together: Whether the lines of a panel share a chart, each with its own sign; false: each has its own chart.
    """
    charts = []
    for panel in panels:
        if together:
            signs = [_DOTS[number % len(_DOTS)] for number in range(len(panel.series))]
            legend = [f"{sign} {series.label}" for sign, series in zip(signs, panel.series, strict=True)]
            charts.append([panel.title, *_folded(legend, width + 11), *_chart(panel, panel.series, width, height)])
        else:
            charts += [
                [f"{series.label}, {panel.y_label}", *_chart(panel, [series], width, height)] for series in panel.series
            ]
    return "\n\n".join("\n".join(lines) for lines in charts)


def _folded(parts: Sequence[str], width: int) -> list[str]:
    """Return parts as lines of at most `width` columns, if each of them fits."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 3 + len(part) > width:
            lines.append(part)
        else:
            lines[-1] += f"   {part}"
    return lines


def _chart(panel: Panel, lines: Sequence[Series], width: int, height: int) -> list[str]:
    values = [value for series in lines for value in series.values if math.isfinite(value)]
    is_log = panel.log is True and bool(values) and min(values) > 0
    scaled = _scale(values, is_log, from_zero=not panel.x_log)
    places = [at for series in lines for at, _ in series.points]
    first, last = (min(places), max(places)) if panel.x_log else (0, max(places))
    rows = [[" "] * width for _ in range(height)]
    for number, series in enumerate(lines):
        for at, value in series.points:
            if math.isfinite(value):
                row = height - 1 - min(height - 1, int(scaled.share(value) * height))
                rows[row][_column(at, first, last, panel.x_log, width)] = _DOTS[number % len(_DOTS)]
    labels = [scaled.top, *[""] * (height - 2), scaled.bottom]
    drawn = [f"{label:>9} ┤{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
    drawn.append(f"{'':>9} └{'─' * width}")
    if panel.marks:
        below = [" "] * width
        for mark in panel.marks:
            below[_column(mark.at, first, last, panel.x_log, width)] = "▲"
        drawn.append(f"{'':>11}{''.join(below).rstrip()}")
    start = f"{first:.0e}" if panel.x_log else "0"
    end = f"{panel.x_label} {last:.0e}" if panel.x_log else f"{panel.x_label} {int(last)}"
    return [*drawn, f"{'':>11}{start}{end:>{width - len(start)}}"]


@dataclass(frozen=True)
class _Scale:
    """The vertical axis of a chart of text: shares of its height by value, and the texts at its ends."""

    low: float
    high: float
    is_log: bool
    top: str
    bottom: str

    def share(self, value: float) -> float:
        """Return a value's place, from 0 at the bottom to 1 at the top."""
        placed = math.log10(value) if self.is_log else value
        return min(1.0, max(0.0, (placed - self.low) / (self.high - self.low)))


def _scale(values: Sequence[float], is_log: bool, from_zero: bool) -> _Scale:
    if not values:
        return _Scale(0.0, 1.0, False, "", "0")
    low, high = min(values), max(values)
    if is_log:
        bottom, top = math.log10(low), math.log10(high)
        return _Scale(bottom, top if top > bottom else bottom + 1.0, True, f"{high:.2e}", f"{low:.2e}")
    if low >= 0 and from_zero:
        return _Scale(0.0, high or 1.0, False, f"{high or 1.0:.2e}", "0")
    return _Scale(low, high if high > low else low + 1.0, False, f"{high:.2e}", f"{low:.2e}")


def _column(at: float, first: float, last: float, is_log: bool, width: int) -> int:
    if is_log:
        share = math.log(at / first) / (math.log(last / first) or 1.0)
        return min(width - 1, int(share * width))
    return min(width - 1, int(at * width / (last + 1)))


def _finite(panel: Panel) -> list[float]:
    return [value for series in panel.series for value in series.values if math.isfinite(value)]


def _is_log(panel: Panel) -> bool:
    if panel.log is not None:
        values = _finite(panel)
        return panel.log and bool(values) and min(values) > 0
    peaks = [max(series.values, default=0.0) for series in panel.series]
    return min(peaks) > 0 and max(peaks) > 20 * min(peaks)  # on one linear scale the smallest would be a flat line
