"""The data set tests/data/robot, and copies of it."""

import shutil
from pathlib import Path

import torch
from conftest import ROOT

from trainer.lerobot_data.reading import read_meta

DATA = ROOT / "tests" / "data"
FRONT, WRIST, TOP = (f"observation.images.{name}" for name in ("front", "wrist", "top"))


def copied(folder):
    """Return the description of a copy of tests/data/robot in `folder`."""
    return read_meta(Path(shutil.copytree(DATA / "robot", folder / "robot")))


def windows(episodes, deltas):
    """Return the numbers (samples, len(deltas)) of the frames around each frame of `episodes`, within its episode."""
    return torch.tensor(
        [
            [min(max(frame + delta, episode.start), episode.end - 1) for delta in deltas]
            for episode in episodes
            for frame in range(episode.start, episode.end)
        ]
    )
