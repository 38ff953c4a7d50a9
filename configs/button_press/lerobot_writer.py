"""Writes episodes without cameras in LeRobot's format v3.0, with pyarrow alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""The columns that every data set has, with their types."""

Array = NDArray[Any]
Columns = dict[str, Array]
"""Arrays (frames, size) by feature."""


def write_dataset(
    root: Path, episodes: Sequence[Columns], names: Mapping[str, list[str]], fps: int, task: str, robot_type: str
) -> None:
    """Write the episodes of one task, all into one file.

    Args:
        root: A folder that does not exist yet. `meta/info.json` is written last.
        episodes: The frames of each by feature, float32 (frames, size).
        names: The name of each number of a feature, by feature.
        fps: Frames a second.
        task: The task in words.
        robot_type: The name of the robot.

    Raises:
        FileExistsError: The folder exists.
    """
    root.mkdir(parents=True)
    numbered = _numbered(episodes, fps)
    whole = {name: np.concatenate([episode[name] for episode in numbered]) for name in numbered[0]}
    _write_table(root / DATA_PATH.format(chunk_index=0, file_index=0), {k: _column(v) for k, v in whole.items()})
    _write_table(root / EPISODES_PATH, _episodes(numbered, task))
    _write_tasks(root / "meta/tasks.parquet", task)
    statistics = {name: {key: value.tolist() for key, value in _statistics(v).items()} for name, v in whole.items()}
    (root / "meta/stats.json").write_text(json.dumps(statistics, indent=1) + "\n")
    info = _info(len(episodes), len(whole["index"]), names, fps, robot_type)
    (root / "meta/info.json").write_text(json.dumps(info, indent=1) + "\n")


def _numbered(episodes: Sequence[Columns], fps: int) -> list[Columns]:
    """Return the episodes with their counters, int64 or float32 (frames, 1)."""
    numbered, start = [], 0
    for number, episode in enumerate(episodes):
        frames = np.arange(len(next(iter(episode.values()))))
        counters = [frames / fps, frames, np.full_like(frames, number), frames + start, np.zeros_like(frames)]
        types = zip(COUNTERS.items(), counters, strict=True)
        numbered.append(episode | {name: values[:, None].astype(dtype) for (name, dtype), values in types})
        start += len(frames)
    return numbered


def _statistics(values: Array) -> Columns:
    """Return LeRobot's statistics of a column. Its quantiles are from histograms, these are exact."""
    exact = values.astype(np.float64)
    of_all = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    return of_all | {"count": np.array([len(exact)])} | {k: np.quantile(exact, q, axis=0) for k, q in QUANTILES.items()}


def _episodes(numbered: Sequence[Columns], task: str) -> dict[str, Any]:
    """Return the table of episodes, in which each has its own statistics."""
    table: dict[str, Any] = {
        "episode_index": list(range(len(numbered))),
        "tasks": [[task]] * len(numbered),
        "length": [len(episode["index"]) for episode in numbered],
        "dataset_from_index": [int(episode["index"][0, 0]) for episode in numbered],
        "dataset_to_index": [int(episode["index"][-1, 0]) + 1 for episode in numbered],
    }
    for place in ("data/chunk_index", "data/file_index", "meta/episodes/chunk_index", "meta/episodes/file_index"):
        table[place] = [0] * len(numbered)
    for name in numbered[0]:
        statistics = [_statistics(episode[name]) for episode in numbered]
        table |= {f"stats/{name}/{key}": [values[key].tolist() for values in statistics] for key in statistics[0]}
    return table


def _info(episodes: int, frames: int, names: Mapping[str, list[str]], fps: int, robot_type: str) -> dict[str, Any]:
    counters = {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in COUNTERS.items()}
    given = {name: {"dtype": "float32", "shape": [len(parts)], "names": parts} for name, parts in names.items()}
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": None,
        "features": given | counters,
    }


def _write_tasks(path: Path, task: str) -> None:
    """Write the tasks by number. LeRobot reads them with pandas, which finds the text in the index."""
    columns = [{"name": name, "field_name": name, "metadata": None} for name in ("task_index", "task")]
    for column, types in zip(columns, (("int64", "int64"), ("unicode", "object")), strict=True):
        column["pandas_type"], column["numpy_type"] = types
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    _write_table(path, {"task_index": [0], "task": [task]}, {"pandas": json.dumps(pandas)})


def _column(values: Array) -> Any:
    if values.shape[1] == 1:
        return pa.array(values[:, 0])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _write_table(path: Path, columns: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns), metadata=metadata)
    pq.write_table(table, path, compression="zstd")  # type: ignore[no-untyped-call] # pyarrow has no types
