"""Writes lerobot_samples.json: checksums of the samples that LeRobot reads from tests/data/pusht, without its frames.

Run it with lerobot 0.6.1 and xxhash installed (the tests themselves do not need lerobot):
python tests/golden/make_lerobot_samples.py
"""

import json
from importlib.metadata import version
from itertools import product
from pathlib import Path

import xxhash
from lerobot.datasets import LeRobotDataset

HERE = Path(__file__).parent
ROOT = HERE.parent / "data" / "pusht"
N_OBS_STEPS, CHUNKS = (1, 2, 3), (1, 7, 32)
EPISODES = {None: 29, (0, 5, 6, 23): 3, (11,): 1}
"""By episodes: the distance from one sample to the next one of which the checksum is made."""


def checksums(n_obs_steps: int, chunk: int, episodes: tuple[int, ...] | None) -> dict[str, object]:
    """Return, for each key of a sample, the checksum of the tensors of some samples, one after another."""
    fps = json.loads((ROOT / "meta" / "info.json").read_text())["fps"]
    observations, actions = range(1 - n_obs_steps, 1), range(chunk)
    times = {
        name: [delta / fps for delta in deltas]
        for name, deltas in (("observation.state", observations), ("action", actions))
    }
    data = LeRobotDataset(
        "innerstep/golden", ROOT, episodes=episodes and list(episodes), delta_timestamps=times, video_backend="pyav"
    )
    data[0]  # opens the reader
    data.reader._query_videos = lambda *_: {}
    digests: dict[str, xxhash.xxh3_64] = {}
    for index in range(0, len(data), EPISODES[episodes]):
        for name, value in data[index].items():
            if hasattr(value, "numpy"):
                digests.setdefault(name, xxhash.xxh3_64()).update(value.numpy().tobytes())
    return {
        "n_obs_steps": n_obs_steps,
        "chunk": chunk,
        "episodes": episodes,
        "samples": len(data),
        "every": EPISODES[episodes],
        "checksums": {name: digest.hexdigest() for name, digest in sorted(digests.items())},
    }


def main() -> None:
    """Write the checksums of all cases."""
    cases = [checksums(*case) for case in product(N_OBS_STEPS, CHUNKS, EPISODES)]
    golden = {"lerobot": version("lerobot"), "cases": cases}
    (HERE / "lerobot_samples.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
