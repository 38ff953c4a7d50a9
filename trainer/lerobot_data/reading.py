"""`read_meta`: the description of a data set, whatever version of LeRobot's format it has."""

from pathlib import Path

from optimizer.config import listed, shown

from ..errors import ConfigError
from . import meta_v21, meta_v30
from .files import read_json, read_record
from .info import Info
from .meta import EpisodeSpan, Meta

_READERS = {"v3.0": meta_v30.read, "v2.1": meta_v21.read}
_REMEDIES = {
    "v2.0": " LeRobot 0.3 converts it to v2.1: python -m lerobot.datasets.v21.convert_dataset_v20_to_v21",
    "v1": " LeRobot 0.3 converts it to v2.1, in two steps: see lerobot/datasets/v2 and v21 there.",
}
"""By the beginning of a version."""


def read_meta(root: Path) -> Meta:
    """Return the description of a data set.

    Args:
        root: The folder of the data set.

    Raises:
        ConfigError: A file is missing or invalid, the version is another one, or the files contradict one another.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file, so that {root} is not a data set in LeRobot's format.{_near(root)}"
        )
    info = read_record(path, Info)
    if slashed := [name for name in info.features if "/" in name]:
        raise ConfigError(f"{path}: features: a name must have no slash; got {shown(slashed[0])}.")
    if info.codebase_version not in _READERS:
        raise ConfigError(
            f"{path}: codebase_version: must be {' or '.join(_READERS)}; got {shown(info.codebase_version)}."
            + next((text for old, text in _REMEDIES.items() if info.codebase_version.startswith(old)), "")
        )
    episodes, tasks, statistics = _READERS[info.codebase_version](root, info)
    _check_counts(path, info, episodes)
    return Meta(
        root,
        info.codebase_version,
        info.fps,
        read_json(path)["features"],
        episodes,
        tuple(dict.fromkeys(episode.data_file for episode in episodes)),
        tasks,
        statistics,
    )


def _near(root: Path) -> str:
    """Return a hint at the data sets in the folders above and below `root`."""
    found = [root.parent] if (root.parent / "meta" / "info.json").is_file() else []
    found += [path.parent.parent for path in sorted(root.glob("*/meta/info.json"))]
    return f" A data set is in: {listed(list(map(str, found)))}" if found else ""


def _check_counts(path: Path, info: Info, episodes: tuple[EpisodeSpan, ...]) -> None:
    if not episodes:
        raise ConfigError(f"{path}: the data set has no episodes.")
    if len(episodes) != info.total_episodes:
        raise ConfigError(f"{path}: total_episodes is {info.total_episodes}; the list of episodes has {len(episodes)}.")
    end = 0
    for number, episode in enumerate(episodes):
        if episode.index != number:
            raise ConfigError(f"{path.parent}: episode {number} is missing from the list of episodes.")
        if episode.start != end or episode.end <= episode.start:
            raise ConfigError(
                f"{path.parent}: episode {number} has the frames {episode.start} to {episode.end - 1},"
                f" and must begin at frame {end} and have one at least."
            )
        end = episode.end
    if end != info.total_frames:
        raise ConfigError(f"{path}: total_frames is {info.total_frames}; the episodes have {end} frames together.")
