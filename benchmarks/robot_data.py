"""Samples a second of a data set in LeRobot's format: ours and LeRobot's DataLoader, without workers and with two.

    python benchmarks/robot_data.py [FOLDER] [WORKERS ...]

LeRobot takes part where it is installed, and decodes by PyAV and, where it loads, by torchcodec.
"""

import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from trainer.errors import ConfigError
from trainer.lerobot_data.dataset import LeRobotData
from trainer.loop.batches import ShuffledBatches

BATCH, N_OBS_STEPS, CHUNK = 64, 2, 16
ROUNDS, SECONDS = 3, 3.0
"""In each of the rounds, every contender in turn serves batches for so long, with nobody else's workers around."""
WARM_UP = 6
"""Batches before the clock starts: files are opened, and what the workers made ahead is used up."""

PUSHT = Path(__file__).parent.parent / "tests" / "data" / "pusht"
CAMERA, STATE, ACTION = "observation.image", "observation.state", "action"

Batches = Generator[Mapping[str, Any], None, None]
Start = Callable[[int], Batches]
"""Returns endless batches, made by so many workers (0: by none), which end when it is closed."""


def ours(root: Path, cache: Path, frames: str, backend: str) -> Start:
    """Return the start of training batches of the data set `lerobot`, as a run gets them."""
    data = LeRobotData(
        str(root),
        n_obs_steps=N_OBS_STEPS,
        chunk=CHUNK,
        frames=frames,  # type: ignore[arg-type]  # one of two texts
        video_backend=backend,  # type: ignore[arg-type]  # one of three
        cache_dir=str(cache) if frames == "cache" else None,
    )

    def start(workers: int) -> Batches:
        with ShuffledBatches(data.train, BATCH, seed=0, workers=workers) as batches:
            for update in itertools.count():
                yield from batches.of_update(update)

    return start


def lerobots(root: Path, backend: str) -> Start:
    """Return the start of batches of LeRobot's data set, from a DataLoader as its own training script has it."""
    from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata

    fps = LeRobotDatasetMetadata("innerstep/benchmark", root).fps
    observed = [step / fps for step in range(1 - N_OBS_STEPS, 1)]
    deltas = {CAMERA: observed, STATE: observed, ACTION: [step / fps for step in range(CHUNK)]}
    data = LeRobotDataset(
        "innerstep/benchmark", root, delta_timestamps=deltas, video_backend=backend, return_uint8=True
    )

    def start(workers: int) -> Batches:
        options: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
        loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers, **options)
        while True:
            yield from loader

    return start


def contenders(root: Path, cache: Path) -> dict[str, Start]:
    """Return those that can take part."""
    makers: dict[str, Callable[[], Start]] = {
        "`frames: cache`": lambda: ours(root, cache, "cache", "pyav"),
        "`frames: lazy`, PyAV": lambda: ours(root, cache, "lazy", "pyav"),
        "`frames: lazy`, torchcodec": lambda: ours(root, cache, "lazy", "torchcodec"),
        "LeRobot's DataLoader, PyAV": lambda: lerobots(root, "pyav"),
        "LeRobot's DataLoader, torchcodec": lambda: lerobots(root, "torchcodec"),
    }
    found: dict[str, Start] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
            if "torchcodec" in name:
                from torchcodec.decoders import VideoDecoder

                VideoDecoder(str(next(root.rglob("*.mp4"))))
        except (ImportError, ConfigError, RuntimeError, OSError) as error:
            found.pop(name, None)
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
    return found


def rate(start: Start, workers: int) -> float:
    """Return the samples a second."""
    with closing(start(workers)) as batches:
        for _ in range(WARM_UP):
            next(batches)
        samples, begun = 0, time.perf_counter()
        while (seconds := time.perf_counter() - begun) < SECONDS:
            samples += len(next(batches)[ACTION])
        return samples / seconds


def table(found: Mapping[str, Start], workers: int) -> str:
    """Return a Markdown table of medians, with ratios to LeRobot's DataLoader with PyAV if it takes part."""
    measured: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, start in found.items():
            measured[name].append(rate(start, workers))
    rates = {name: statistics.median(values) for name, values in measured.items()}
    base = next((value for name, value in rates.items() if name.startswith("LeRobot")), None)
    rows = [f"| {workers} workers | samples/s | ratio |", "|---|---|---|"]
    rows += [f"| {name} | {value:,.0f} | {f'{value / base:.1f}' if base else '-'} |" for name, value in rates.items()]
    return "\n".join([*rows, ""])


def main() -> None:
    """Print a table for each number of workers."""
    arguments = sys.argv[1:]
    root = Path(arguments[0]) if arguments else PUSHT
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("lerobot", "av", "torchcodec"))
    print(f"{machine()}, {versions}: {BATCH} samples a batch, {N_OBS_STEPS} frames and {CHUNK} actions a sample\n")
    with tempfile.TemporaryDirectory() as cache:
        found = contenders(root, Path(cache))
        for workers in map(int, arguments[1:] or ("2", "0")):  # open decoders of this process would not survive a fork
            print(table(found, workers), flush=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
