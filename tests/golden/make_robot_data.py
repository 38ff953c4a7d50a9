"""Writes tests/data/robot by LeRobot's own writer, and robot_data.json: checksums of the samples that LeRobot reads.

Run it with lerobot 0.6.1 and xxhash installed (the tests themselves do not need lerobot):
python tests/golden/make_robot_data.py [robot] [pusht]
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xxhash
from lerobot.datasets import LeRobotDataset

HERE = Path(__file__).parent
DATA = HERE.parent / "data"

FPS = 15
LENGTHS = [6, 1, 23, 9, 14]
"""Frames of the episodes. A camera has several files of videos, one of them with several episodes."""

CAMERAS = {
    "observation.images.front": ("video", 64, 96),
    "observation.images.wrist": ("video", 72, 64),
    "observation.images.top": ("image", 40, 56),
}
FEATURES = {
    **{
        name: {"dtype": dtype, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
        for name, (dtype, height, width) in CAMERAS.items()
    },
    "observation.state": {"dtype": "float32", "shape": (3,), "names": {"motors": ["a", "b", "c"]}},
    "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["a", "b"]}},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
}


def picture(generator: np.random.Generator, height: int, width: int, step: int) -> np.ndarray:
    """Return a frame: a gradient, a square that moves, and a little noise."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, step * 10 % 256)], axis=-1)
    left = step * 3 % (width - 12)
    frame[8:20, left : left + 12] = (230, 40, 90)
    return (frame + generator.integers(-6, 7, frame.shape)).clip(0, 255).astype(np.uint8)


def write(root: Path) -> None:
    """Write the data set."""
    shutil.rmtree(root, ignore_errors=True)
    data = LeRobotDataset.create(
        "innerstep/robot",
        fps=FPS,
        features=FEATURES,
        root=root,
        video_files_size_in_mb=0.005,
        data_files_size_in_mb=0.2,
    )
    generator = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            data.add_frame(
                {name: picture(generator, height, width, step) for name, (_, height, width) in CAMERAS.items()}
                | {
                    "observation.state": generator.normal(size=3).astype(np.float32),
                    "action": generator.normal(size=2).astype(np.float32),
                    "next.done": np.array([step == length - 1]),
                    "task": ["stack the cubes", "open the drawer"][episode % 2],
                }
            )
        data.save_episode()
    data.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)  # empty


def checksums(root: Path, deltas: dict[str, list[int]], episodes: list[int] | None) -> dict[str, object]:
    """Return, for each key of a sample, the checksum of the tensors of all samples, one after another."""
    fps = json.loads((root / "meta" / "info.json").read_text())["fps"]
    times = {name: [delta / fps for delta in steps] for name, steps in deltas.items()} or None
    data = LeRobotDataset("innerstep/golden", root, episodes=episodes, delta_timestamps=times, video_backend="pyav")
    digests: dict[str, xxhash.xxh3_64] = {}
    for index in range(len(data)):
        for name, value in data[index].items():
            if hasattr(value, "numpy"):
                digests.setdefault(name, xxhash.xxh3_64()).update(np.ascontiguousarray(value.numpy()).tobytes())
    return {
        "deltas": deltas,
        "episodes": episodes,
        "samples": len(data),
        "checksums": {name: digest.hexdigest() for name, digest in sorted(digests.items())},
    }


def windows(cameras: list[str], n_obs_steps: int, chunk: int) -> dict[str, list[int]]:
    """Return the deltas of `n_obs_steps` observations up to the current one and `chunk` actions from it on."""
    before = list(range(1 - n_obs_steps, 1))
    return dict.fromkeys([*cameras, "observation.state"], before) | {"action": list(range(chunk))}


CASES = {
    "robot": [
        ({}, None),
        (windows([*CAMERAS], 1, 1), None),
        (windows([*CAMERAS], 2, 8), None),
        (windows([*CAMERAS], 3, 32), [0, 2, 4]),
        ({"observation.images.front": [-5, 0, 2], "action": [-1, 3]}, [1]),
    ],
    "pusht": [
        ({}, None),
        (windows(["observation.image"], 2, 16), None),
        (windows(["observation.image"], 3, 32), [0, 5, 6, 23]),
    ],
}
"""Windows and episodes, by data set."""


def main() -> None:
    """Write what the arguments name; both, if there are none."""
    names = sys.argv[1:] or [*CASES]
    if "robot" in names:
        write(DATA / "robot")
    out = HERE / "robot_data.json"
    golden = (json.loads(out.read_text()) if out.exists() else {}) | {
        "lerobot": version("lerobot"),
        "av": version("av"),
    }
    golden |= {name: [checksums(DATA / name, *case) for case in CASES[name]] for name in names}
    out.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
