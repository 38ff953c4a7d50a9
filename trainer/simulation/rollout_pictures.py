"""Pictures and videos of episodes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer.state import replacing

from ..interfaces.evaluation import Episode, Recording
from ..run_layout import ROLLOUTS, VIDEOS
from .videos import write_video

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 4
"""Episodes in the picture."""
FRAMES = 6
"""Frames of each episode in the picture, from the first to the last."""


def draw_rollouts(run_dir: Path, episodes: Iterable[Episode], picture: bool, videos: int) -> Iterator[str]:
    """Draw `rollouts.png`, write a video of each of the first episodes, and yield a line on each file.

    Args:
        run_dir: The run's directory.
        episodes: Recorded ones, which are asked for one by one.
        picture: Whether to draw.
        videos: How many videos.
    """
    drawn: list[Episode] = []
    for number, episode in enumerate(episodes):
        if number < videos and episode.recording is not None and episode.recording.frames:
            path = run_dir / VIDEOS / f"episode_{episode.seed}.mp4"
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as aside:
                write_video(episode.recording.frames, episode.recording.frames_per_second, aside)
            yield f"wrote {path}"
        if picture and number < PICTURED:
            drawn.append(_thinned(episode))
    recordings = [episode.recording for episode in drawn if episode.recording is not None]
    if recordings and (all(one.frames for one in recordings) or all(one.path.size for one in recordings)):
        with replacing(run_dir / ROLLOUTS) as aside, aside.open("xb") as file:
            _figure(drawn, recordings).savefig(file, dpi=100, format="png")
        what = "frames" if recordings[0].frames else f"paths of {recordings[0].path_of}: {recordings[0].no_frames}"
        yield f"drew {run_dir / ROLLOUTS}: {what}"
    elif picture:
        reason = recordings[0].no_frames if recordings else "the environment records nothing"
        yield f"{ROLLOUTS} is not drawn: {reason}, and there is no vector whose path could be drawn"


def _thinned(episode: Episode) -> Episode:
    """Return the episode with those frames alone that the picture shows."""
    recording = episode.recording
    if recording is None or not recording.frames:
        return episode
    chosen = np.linspace(0, len(recording.frames) - 1, FRAMES).round().astype(int)
    return replace(episode, recording=replace(recording, frames=[recording.frames[index] for index in chosen]))


def _figure(episodes: Sequence[Episode], recordings: Sequence[Recording]) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    rows = len(episodes)
    if not all(recording.frames for recording in recordings):
        drawn = Figure(figsize=(7, 6), layout="constrained")
        solid = recordings[0].path.shape[1] == 3
        axes = drawn.add_subplot(projection="3d" if solid else None)
        _draw_paths(axes, episodes, recordings)
        return drawn
    height, width = recordings[0].frames[0].shape[:2]
    drawn = Figure(figsize=(2 * FRAMES, (2 * height / width + 0.25) * rows), layout="constrained")
    grid = drawn.subplots(rows, FRAMES, squeeze=False)
    for row, episode, recording in zip(grid, episodes, recordings, strict=True):
        row[0].set_title(_title(episode), loc="left", fontsize=9)
        for axes, frame in zip(row, recording.frames, strict=True):
            axes.imshow(frame)
            axes.set_axis_off()
    return drawn


def _draw_paths(axes: "Axes", episodes: Sequence[Episode], recordings: Sequence[Recording]) -> None:
    """Draw the path of each episode, from a dot on; over time, if it has one dimension."""
    for episode, recording in zip(episodes, recordings, strict=True):
        path = recording.path
        columns = path.T if path.shape[1] > 1 else np.stack([np.arange(len(path)), path[:, 0]])
        color = {None: "tab:blue", True: "tab:green", False: "tab:red"}[episode.success]
        axes.plot(*columns, color=color, label=_title(episode))
        axes.plot(*columns[:, :1], "o", color=color)
    axes.set_title(f"{recordings[0].path_of}, the first {recordings[0].path.shape[1]} numbers; a dot is the start")
    axes.legend(fontsize=8)


def _title(episode: Episode) -> str:
    outcome = {None: "", True: "success, ", False: "no success, "}[episode.success]
    return f"seed {episode.seed}: {outcome}return {episode.total_reward:.4g}, {episode.length} steps"
