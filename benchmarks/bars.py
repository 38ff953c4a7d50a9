"""The figure of docs/benchmarks.md: steps and loops as bars."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

OURS, OTHERS, LIMIT = "tab:blue", "tab:gray", "black"
CUT = 6
"""Bars are cut at so many times the first one, which the others are compared with."""


def draw(path: Path, charts: Mapping[str, Mapping[str, float]], limits: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a panel of bars for each chart.

    Args:
        path: Of the picture.
        charts: Seconds by name, by title of the panel. Names of ours have backticks, or are innerstep.
        limits: Seconds by name that a step takes at least, by title: a mark in its bar.
    """
    figure = Figure(figsize=(9, 1.2 + 0.3 * sum(len(times) + 1.5 for times in charts.values())), layout="constrained")
    axes = figure.subplots(len(charts), 1, height_ratios=[len(times) + 1.5 for times in charts.values()], squeeze=False)
    for axis, (title, times) in zip(axes[:, 0], charts.items(), strict=True):
        names = [name.replace("`", "") for name in times]
        colours = [OURS if "`" in name or name == "innerstep" else OTHERS for name in times]
        end = CUT * next(iter(times.values())) * 1e3
        milliseconds = [seconds * 1e3 for seconds in times.values()]
        bars = axis.barh(names, [min(each, end) for each in milliseconds], color=colours)
        axis.bar_label(bars, [f" {each:.3g} ms{' →' if each > end else ''}" for each in milliseconds])
        for row, name in enumerate(times):
            if name in limits.get(title, {}):
                axis.vlines(limits[title][name] * 1e3, row - 0.45, row + 0.45, color=LIMIT, linewidth=1.5)
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize="medium")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms; blue: innerstep; black: the limit")
    figure.savefig(path, dpi=110)
