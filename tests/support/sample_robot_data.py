"""The data set tests/data/robot, copies of it with faults, and a plain reader of its description."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import torch
from conftest import ROOT

from trainer.lerobot_data.meta import EpisodeSpan, Meta, VideoSpan

DATA = ROOT / "tests" / "data"
FRONT, WRIST, TOP = (f"observation.images.{name}" for name in ("front", "wrist", "top"))


def meta_of(root):
    """Return the description of a data set of format v3.0, without its tasks and statistics."""
    info = json.loads((root / "meta/info.json").read_text())
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    rows = [
        row for file in sorted((root / "meta/episodes").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    episodes = []
    for row in rows:
        videos = {}
        for camera in cameras:
            of_file = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
            path = root / info["video_path"].format(video_key=camera, **of_file)
            videos[camera] = VideoSpan(path, row[f"videos/{camera}/from_timestamp"])
        span = row["episode_index"], row["dataset_from_index"], row["dataset_to_index"]
        episodes.append(EpisodeSpan(*span, videos))
    files = tuple(sorted((root / "data").rglob("*.parquet")))
    return Meta(root, info["codebase_version"], info["fps"], info["features"], tuple(episodes), files, (), {})


def copied(folder):
    """Return the description of a copy of tests/data/robot in `folder`."""
    return meta_of(Path(shutil.copytree(DATA / "robot", folder / "robot")))


def windows(episodes, deltas):
    """Return the numbers (samples, len(deltas)) of the frames around each frame of `episodes`, within its episode."""
    return torch.tensor(
        [
            [min(max(frame + delta, episode.start), episode.end - 1) for delta in deltas]
            for episode in episodes
            for frame in range(episode.start, episode.end)
        ]
    )
