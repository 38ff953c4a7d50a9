"""The format v3.0: tables of episodes and tasks, several episodes in a file."""

from pathlib import Path
from typing import Any

from optimizer.config import shown_value

from ..errors import ConfigError
from .files import column_names, read_json, read_rows
from .info import Info, file_of
from .meta import EpisodeSpan, VideoSpan

_EPISODE = ["episode_index", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index"]
_VIDEO: dict[str, type] = {"chunk_index": int, "file_index": int, "from_timestamp": float}


def read(root: Path, info: Info) -> tuple[tuple[EpisodeSpan, ...], tuple[str, ...], dict[str, Any]]:
    """Return the episodes, the tasks by number, and the statistics.

    Raises:
        ConfigError: A file is missing or invalid.
    """
    tasks = _tasks(root / "meta" / "tasks.parquet") if info.total_tasks else ()
    return _episodes(root, info), tasks, _statistics(root / "meta" / "stats.json")


def _episodes(root: Path, info: Info) -> tuple[EpisodeSpan, ...]:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("*/*.parquet"))
    if not files:
        raise ConfigError(f"{folder}: has no parquet file with the list of episodes.")
    kinds: dict[str, type] = dict.fromkeys(_EPISODE, int)
    kinds |= {f"videos/{key}/{name}": kind for key in info.video_keys for name, kind in _VIDEO.items()}
    return tuple(_episode(root, info, row) for file in files for row in read_rows(file, kinds))


def _episode(root: Path, info: Info, row: dict[str, Any]) -> EpisodeSpan:
    videos = {
        key: VideoSpan(
            file_of(
                root,
                info.video_path,
                video_key=key,
                chunk_index=row[f"videos/{key}/chunk_index"],
                file_index=row[f"videos/{key}/file_index"],
            ),
            row[f"videos/{key}/from_timestamp"],
        )
        for key in info.video_keys
    }
    numbers = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    return EpisodeSpan(
        row["episode_index"],
        row["dataset_from_index"],
        row["dataset_to_index"],
        videos,
        file_of(root, info.data_path, **numbers),
    )


def _tasks(path: Path) -> tuple[str, ...]:
    text = next((name for name in column_names(path) if name != "task_index"), "task")  # pandas names an index freely
    rows = read_rows(path, {"task_index": int, text: str})
    return in_order(path, {row["task_index"]: row[text] for row in rows})


def in_order(path: Path, tasks: dict[int, str]) -> tuple[str, ...]:
    """Return the texts of `tasks` by their numbers.

    Raises:
        ConfigError: The numbers are not 0, 1, 2 and so on.
    """
    if sorted(tasks) != list(range(len(tasks))):
        raise ConfigError(f"{path}: task_index must count from 0; got {sorted(tasks)}")
    return tuple(tasks[number] for number in range(len(tasks)))


def _statistics(path: Path) -> dict[str, Any]:
    statistics = read_json(path) if path.exists() else {}
    if not isinstance(statistics, dict):
        raise ConfigError(f"{path}: must hold the statistics by feature; got {shown_value(statistics)}.")
    return statistics
