"""Plots of a run's learning rates and losses, from its metrics."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from optimizer.charts import Panel, Series, figure
from optimizer.state import replacing

from ..errors import missing_extra
from ..run_layout import METRICS
from .metrics_file import HELD_OUT, read_metrics

PICTURES = ("learning_rates.png", "losses.png", "success.png")

_EPISODES = {"success": "Episodes in which the task was solved", "return": "Sum of rewards of an episode"}
"""The metrics of episodes that are drawn, with the titles of their panels."""


def require_plotting(path: str) -> None:
    """Check that the extra `plot` is installed.

    Args:
        path: The field or option that needs it, for the message.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("matplotlib") is None:  # it is imported when it draws: that takes long
        raise missing_extra(path, "matplotlib", "plot")


class _ThinnedSeries:
    """Points of a line in a plot: all, or above `most` points every second, fourth … and the last."""

    def __init__(self, most: int = 20_000) -> None:
        self._most, self._stride, self._count = most, 1, 0
        self._points: list[tuple[int, float]] = []
        self._last: tuple[int, float] | None = None

    def add(self, update: int, value: float) -> None:
        self._last = (update, value)
        if self._count % self._stride == 0:
            self._points.append(self._last)
        if len(self._points) > self._most:
            self._points, self._stride = self._points[::2], self._stride * 2
        self._count += 1

    def points(self) -> list[tuple[int, float]]:
        """Return the points, including the last one that was added."""
        if self._last is None or self._points[-1] is self._last:
            return self._points
        return [*self._points, self._last]


def draw_pictures(run_dir: Path) -> list[Path]:
    """Draw `learning_rates.png` and `losses.png` into `run_dir`, and `success.png` if there were episodes in an
    environment; return their paths.
    """
    lrs: dict[str, _ThinnedSeries] = defaultdict(_ThinnedSeries)
    losses = {"train": _ThinnedSeries(), HELD_OUT: _ThinnedSeries()}
    episodes: dict[str, _ThinnedSeries] = defaultdict(_ThinnedSeries)
    for line in read_metrics(run_dir / METRICS):
        if (loss := losses.get(line["split"])) is not None and "loss" in line:
            loss.add(line["step"], line["loss"])
        for name in _EPISODES if line["split"] == HELD_OUT else ():
            if name in line:
                episodes[name].add(line["step"], line[name])
        for name in line if line["split"] == "train" else ():
            if name.startswith("lr/"):
                lrs[name.removeprefix("lr/")].add(line["step"], line[name])
    paths = [run_dir / name for name in PICTURES]
    save_figure([_lr_panel(lrs)], paths[0])
    save_figure([_loss_panel(losses)], paths[1])
    if not episodes:
        return paths[:2]
    save_figure(
        [Panel(_EPISODES[name], name, [Series(name, of.points(), "o-")], log=False) for name, of in episodes.items()],
        paths[2],
    )
    return paths


def save_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to `path`, a PNG or an SVG by its ending."""
    with replacing(path) as aside:
        write_figure(panels, aside)


def write_figure(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels to the new file `path`, as `save_figure`."""
    with path.open("xb") as file:
        figure(panels).savefig(file, dpi=120, format=path.suffix[1:])


def _lr_panel(lrs: Mapping[str, _ThinnedSeries]) -> Panel:
    series = [Series(name, lr.points()) for name, lr in sorted(lrs.items())]
    return Panel("Learning rate of each component", "learning rate", series)


def _loss_panel(losses: Mapping[str, _ThinnedSeries]) -> Panel:
    styles = {"train": ("training batch", "-"), HELD_OUT: ("held out", "o-")}
    drawn = [(*styles[split], loss.points()) for split, loss in losses.items()]
    return Panel("Losses", "loss", [Series(label, points, style) for label, style, points in drawn if points], log=True)
