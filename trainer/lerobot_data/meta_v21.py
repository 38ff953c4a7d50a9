"""The format v2.1: lines of JSON, a parquet file and a video for each episode."""

from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .aggregation import aggregate
from .files import Record, read_records
from .info import Info, file_of
from .meta import EpisodeSpan, VideoSpan
from .meta_v30 import in_order


class _Episode(Record):
    episode_index: int
    length: int


class _EpisodeStatistics(Record):
    episode_index: int
    stats: dict[str, dict[str, Any]]


class _Task(Record):
    task_index: int
    task: str


def read(root: Path, info: Info) -> tuple[tuple[EpisodeSpan, ...], tuple[str, ...], dict[str, Any]]:
    """Return the episodes, the tasks by number, and the statistics, aggregated over the episodes.

    Raises:
        ConfigError: A file is missing or invalid.
    """
    folder = root / "meta"
    episodes = sorted(read_records(folder / "episodes.jsonl", _Episode), key=lambda episode: episode.episode_index)
    ends = list(accumulate(episode.length for episode in episodes))
    spans = tuple(_span(root, info, episode, end) for episode, end in zip(episodes, ends, strict=True))
    tasks = folder / "tasks.jsonl"
    texts = in_order(tasks, {task.task_index: task.task for task in read_records(tasks, _Task)})
    return spans, texts, _statistics(folder / "episodes_stats.jsonl", len(spans))


def _span(root: Path, info: Info, episode: _Episode, end: int) -> EpisodeSpan:
    number = episode.episode_index
    numbers = {"episode_index": number, "episode_chunk": number // info.chunks_size}
    videos = {key: VideoSpan(file_of(root, info.video_path, video_key=key, **numbers), 0.0) for key in info.video_keys}
    return EpisodeSpan(number, end - episode.length, end, videos, file_of(root, info.data_path, **numbers))


def _statistics(path: Path, episodes: int) -> dict[str, Any]:
    if not path.exists():
        return {}
    records = sorted(read_records(path, _EpisodeStatistics), key=lambda record: record.episode_index)
    if len(records) != episodes:
        raise ConfigError(f"{path}: must have a line for each of the {episodes} episodes; it has {len(records)}.")
    return aggregate([record.stats for record in records], path)
