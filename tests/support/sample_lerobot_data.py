"""Data sets in LeRobot's format, written without LeRobot: small ones of states, and copies in the format v2.1."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

FPS = 10
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
    "observation.environment_state": {"dtype": "float32", "shape": [2, 2], "names": None},
    "action": {"dtype": "float32", "shape": [1], "names": ["x"]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    **{
        name: {"dtype": "int64", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index")
    },
}
"""Those of the data sets that `write_states` makes."""


def columns_of(lengths, seed=0, tasks=2):
    """Return columns by name, as arrays with one frame a row, of episodes of these lengths."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return {
        "observation.state": random.normal(size=(total, 3)).astype(np.float32),
        "observation.environment_state": random.normal(size=(total, 2, 2)).astype(np.float32),
        "action": random.normal(size=(total, 1)).astype(np.float32),
        "next.reward": random.normal(size=total).astype(np.float32),
        "next.done": np.array(lengths)[episode] - 1 == frame,
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": episode,
        "index": np.arange(total),
        "task_index": episode % tasks,
    }


def write_states(root, lengths, seed=0, files=1, tasks=("lift", "push"), **changes):
    """Write a data set v3.0 of states and return its folder.

    Args:
        root: The folder.
        lengths: Frames by episode.
        seed: Of the values.
        files: Parquet files, over which the episodes are spread.
        tasks: Texts, which the episodes take in turn.
        changes: Fields of info.json.
    """
    root = Path(root)
    ends = np.cumsum(lengths)
    bounds = [0, *(int(part[-1]) + 1 for part in np.array_split(np.arange(len(lengths)), files))]
    table = _table(columns_of(lengths, seed, len(tasks)))
    rows = []
    for number, (first, last) in enumerate(pairwise(bounds)):
        start, end = int(ends[first] - lengths[first]), int(ends[last - 1])
        _write(root / f"data/chunk-000/file-{number:03d}.parquet", table.slice(start, end - start))
        rows += [_episode(episode, ends, lengths, number) for episode in range(first, last)]
    _write(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    numbers = pa.table({"task_index": list(range(len(tasks))), "task": list(tasks)})
    _write(root / "meta/tasks.parquet", numbers)
    (root / "meta/stats.json").write_text(json.dumps(statistics_of(columns_of(lengths, seed, len(tasks)))))
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": FEATURES,
        "total_episodes": len(lengths),
        "total_frames": int(ends[-1]),
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
    }
    (root / "meta/info.json").write_text(json.dumps(info | changes))
    return root


def statistics_of(columns):
    """Return minimum, maximum, mean, standard deviation and count by name."""
    return {
        name: {
            "min": np.atleast_1d(values.min(0)).tolist(),
            "max": np.atleast_1d(values.max(0)).tolist(),
            "mean": np.atleast_1d(values.mean(0)).tolist(),
            "std": np.atleast_1d(values.std(0)).tolist(),
            "count": [len(values)],
        }
        for name, values in columns.items()
    }


def change_info(root, **changes):
    """Change fields of info.json; None takes a field away."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))


def change_table(path, change):
    """Write what `change` makes of the pyarrow.Table in a parquet file."""
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table), path)


def slow_batch(columns, lengths, indices, deltas, drop=0):
    """Return a batch, made sample by sample.

    Args:
        columns: By name, with one frame a row.
        lengths: Frames by episode.
        indices: Of the samples.
        deltas: By name.
        drop: Frames at the end of each episode that are left out as samples.
    """
    samples, start = [], 0
    for length in lengths:
        samples += [(start, start + length - 1, start + step) for step in range(length - drop)]
        start += length
    made = {}
    for name, values in columns.items():
        rows, masks = [], []
        for index in indices:
            first, last, row = samples[index]
            if name not in deltas:
                rows.append(values[row])
                continue
            rows.append([values[min(max(row + delta, first), last)] for delta in deltas[name]])
            masks.append([not first <= row + delta <= last for delta in deltas[name]])
        made[name] = torch.tensor(np.array(rows))
        if name in deltas:
            made[f"{name}_is_pad"] = torch.tensor(masks)
    return made


def write_v21(source, target):
    """Write a copy of the data set v3.0 in `source` in the format v2.1, without decoding its videos."""
    info = json.loads((source / "meta/info.json").read_text())
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    episodes = [row for file in sorted((source / "meta/episodes").rglob("*.parquet")) for row in _rows(file)]
    table = pa.concat_tables([pq.ParquetFile(file).read() for file in sorted((source / "data").rglob("*.parquet"))])
    videos = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    for row in episodes:
        number, start, end = row["episode_index"], row["dataset_from_index"], row["dataset_to_index"]
        _write(target / f"data/chunk-000/episode_{number:06d}.parquet", table.slice(start, end - start))
        for camera in cameras:
            place = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
            _cut_video(
                source / info["video_path"].format(video_key=camera, **place),
                target / videos.format(video_key=camera, episode_chunk=0, episode_index=number),
                row[f"videos/{camera}/from_timestamp"],
                row[f"videos/{camera}/to_timestamp"],
            )
    (target / "meta").mkdir()
    tasks = [{"task_index": row["task_index"], "task": row["task"]} for row in _rows(source / "meta/tasks.parquet")]
    _write_lines(target / "meta/tasks.jsonl", tasks)
    short = [{name: row[name] for name in ("episode_index", "tasks", "length")} for row in episodes]
    _write_lines(target / "meta/episodes.jsonl", short)
    stats = [{"episode_index": row["episode_index"], "stats": _statistics_in(row)} for row in episodes]
    _write_lines(target / "meta/episodes_stats.jsonl", stats)
    info |= {"codebase_version": "v2.1", "total_chunks": 1, "total_videos": len(cameras) * len(episodes)}
    info |= {"chunks_size": 1000, "video_path": videos if cameras else None}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    (target / "meta/info.json").write_text(json.dumps(info))
    return target


def _table(columns):
    return pa.table({name: pa.array(values.tolist(), _type(values)) for name, values in columns.items()})


def _type(values):
    kind = pa.from_numpy_dtype(values.dtype)
    for _ in values.shape[1:]:
        kind = pa.list_(kind)
    return kind


def _write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _rows(file):
    return pq.ParquetFile(file).read().to_pylist()


def _episode(episode, ends, lengths, file):
    end = int(ends[episode])
    return {
        "episode_index": episode,
        "length": lengths[episode],
        "dataset_from_index": end - lengths[episode],
        "dataset_to_index": end,
        "data/chunk_index": 0,
        "data/file_index": file,
    }


def _statistics_in(row):
    stats = {}
    for name, value in row.items():
        if name.startswith("stats/"):
            feature, _, statistic = name.removeprefix("stats/").rpartition("/")
            stats.setdefault(feature, {})[statistic] = value
    return stats


def _cut_video(source, target, start, end):
    import av

    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream, opaque=True)
        first, last = (round(seconds / stream.time_base) for seconds in (start, end))
        for packet in given.demux(stream):
            if packet.pts is not None and first <= packet.pts < last:
                packet.pts, packet.dts = packet.pts - first, packet.dts - first
                packet.stream = copy
                made.mux(packet)
