"""The format v3.0: tables of episodes and tasks, several episodes in a file."""

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import column_names, read_json, read_table
from .info import Info, file_of
from .meta import EpisodeSpan, VideoSpan

_EPISODE = ["episode_index", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index"]
_VIDEO = ["chunk_index", "file_index", "from_timestamp"]


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
    names = [*_EPISODE, *(f"videos/{key}/{name}" for key in info.video_keys for name in _VIDEO)]
    rows = [row for file in files for row in read_table(file, names).to_pylist()]
    return tuple(_episode(root, info, row) for row in rows)


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
    table = read_table(path, ["task_index", text])
    return in_order(path, dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True)))


def in_order(path: Path, tasks: dict[int, str]) -> tuple[str, ...]:
    """Return the texts of `tasks` by their numbers.

    Raises:
        ConfigError: The numbers are not 0, 1, 2 and so on.
    """
    if sorted(tasks) != list(range(len(tasks))):
        raise ConfigError(f"{path}: task_index must count from 0; got {sorted(tasks)}")
    return tuple(tasks[number] for number in range(len(tasks)))


def _statistics(path: Path) -> dict[str, Any]:
    statistics: dict[str, Any] = read_json(path) if path.exists() else {}
    return statistics
