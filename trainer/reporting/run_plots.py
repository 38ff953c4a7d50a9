"""Plots of runs, from their metrics: the command `plot RUN`, and the pictures at the end of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..run_layout import CONFIG, METRICS
from ..runtime.files import unreadable
from .metrics_file import HELD_OUT
from .plot_files import draw, save_figure
from .run_panels import EPISODES, MOST_PANELS, DrawnRun, RunPanels, read_run

PICTURES = ("learning_rates.png", "losses.png", "success.png")
_MOST_RUNS = 10
"""Runs that colours can distinguish."""


def draw_pictures(run_dir: Path) -> list[Path]:
    """Draw `learning_rates.png` and `losses.png` into `run_dir`, and `success.png` if there were episodes in an
    environment; return their paths.
    """
    run = read_run(run_dir, run_dir.name)
    panels = RunPanels([run])
    paths = [run_dir / name for name in PICTURES]
    save_figure([panels.family("lr")], paths[0])
    save_figure([panels.losses()], paths[1])
    episodes = [name for name in EPISODES if (HELD_OUT, name) in run.metrics.series]
    if not episodes:
        return paths[:2]
    save_figure([panels.episodes(name) for name in episodes], paths[2])
    return paths


def plot_runs(runs: Sequence[str], out: Path | None, smoothing: float) -> list[str]:
    """Draw runs on the same axes; return lines to print. Nothing that they name is imported.

    Args:
        runs: Their directories.
        out: A .png, .svg or .pdf to write; None: the plots are text.
        smoothing: As for RunPanels.

    Raises:
        ConfigError: There is no run, or it has no metrics yet.
        UnreadableError: The system refuses to read a file of a run.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"--smooth: must be at least 0 and less than 1; got {smoothing:g}")
    if len(runs) > _MOST_RUNS:
        raise ConfigError(f"RUN: at most {_MOST_RUNS} runs can be distinguished in a plot; got {len(runs)}")
    folders = [Path(run) for run in runs]
    drawn = [_read(folder, name) for folder, name in zip(folders, short_names(runs), strict=True)]
    panels = RunPanels(drawn, smoothing).all()
    if not panels:
        raise ConfigError(f"{runs[0]}: {METRICS} has no lines yet; there is nothing to draw")
    lines = draw(panels[:MOST_PANELS], out, together=True)
    if out is None:
        lines += _mark_lines(drawn)
    if len(panels) > MOST_PANELS:
        left_out = ", ".join(panel.title for panel in panels[MOST_PANELS:])
        lines.append(f"note: left out, as a plot has {MOST_PANELS} panels at most: {left_out}")
    return [*lines, *_nonfinite_lines(drawn)]


def short_names(runs: Sequence[str]) -> list[str]:
    """Return the shortest names that distinguish runs: the ends of their paths.

    Raises:
        ConfigError: One is given twice.
    """
    parts = [Path(run).absolute().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"RUN: {next(run for run in runs if runs.count(run) > 1)} is given twice")


def _read(run_dir: Path, name: str) -> DrawnRun:
    if not any((run_dir / part).exists() for part in (CONFIG, METRICS)):
        raise ConfigError(f"{run_dir}: there is no run here (no {CONFIG}, no {METRICS}). Give a run's directory.")
    try:
        return read_run(run_dir, name)
    except OSError as error:
        raise unreadable(Path(error.filename or run_dir / METRICS), error) from error


def _mark_lines(runs: Sequence[DrawnRun]) -> list[str]:
    lines = []
    for run in runs:
        parts = [f"resumed after update {', '.join(map(str, run.resumes))}"] if run.resumes else []
        parts += [] if run.best is None else [f"best checkpoint after update {run.best}"]
        lines += [f"▲ {run.name}: {'; '.join(parts)}"] if parts else []
    return ["", *lines] if lines else []


def _nonfinite_lines(runs: Sequence[DrawnRun]) -> list[str]:
    return [
        f"note: {run.name}: {name} ({split}) is NaN or infinite in {series.nonfinite_count} lines, first at update"
        f" {series.nonfinite[0][0]}"
        for run in runs
        for (split, name), series in run.metrics.series.items()
        if series.nonfinite
    ]
