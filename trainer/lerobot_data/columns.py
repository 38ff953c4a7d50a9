"""Columns of parquet files as tensors in memory."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from .features import value_shape
from .files import read_table
from .meta import EpisodeSpan, Meta

INDEX, EPISODE = "index", "episode_index"

_DTYPES = {"float": torch.float32, "double": torch.float32, "int": torch.int64, "uint": torch.int64, "bool": torch.bool}
"""By the beginning of the type's name in info.json or in a file: the types that LeRobotDataset returns."""


def read_columns(meta: Meta, features: Mapping[str, JsonObject], episodes: Sequence[EpisodeSpan]) -> dict[str, Tensor]:
    """Return the frames of `episodes`, in their order, as tensors with one frame a row.

    Floating-point numbers are float32, whole numbers int64. `index` and `episode_index` are always there.

    Args:
        meta: The data set's.
        features: The features to load, as in info.json.
        episodes: Those to load.

    Raises:
        ConfigError: A file is missing or cut, or its columns, rows or values contradict the folder `meta`.
    """
    number: JsonObject = {"dtype": "int64", "shape": [1]}
    wanted = {**{name: meta.features.get(name, number) for name in (INDEX, EPISODE)}, **features}
    pieces: dict[str, list[Tensor]] = {name: [] for name in wanted}
    all_inside = _by_file(meta.episodes)
    for file, chosen in _by_file(episodes).items():
        inside = all_inside[file]
        table = read_table(file, list(wanted))
        if table.num_rows != inside[-1].end - inside[0].start:
            raise ConfigError(
                f"{file}: has {table.num_rows} rows; its episodes have {inside[-1].end - inside[0].start} frames."
                " If it was cut, copy or download it again."
            )
        rows = _rows(chosen, inside[0].start)
        for name, info in wanted.items():
            pieces[name].append(_tensor(file, name, info, table[name])[rows])
    columns = {name: torch.cat(parts) for name, parts in pieces.items()}
    _check_numbers(columns, episodes)
    return columns


def _by_file(episodes: Sequence[EpisodeSpan]) -> dict[Path, list[EpisodeSpan]]:
    by_file: dict[Path, list[EpisodeSpan]] = {}
    for episode in episodes:
        by_file.setdefault(episode.data_file, []).append(episode)
    return by_file


def _rows(episodes: Sequence[EpisodeSpan], first: int) -> Tensor:
    return torch.cat([torch.arange(episode.start - first, episode.end - first) for episode in episodes])


def _tensor(file: Path, name: str, info: JsonObject, column: Any) -> Tensor:
    """Return a pyarrow column, whose lists may be nested, as a tensor."""
    values, rows, missing = column.combine_chunks(), len(column), column.null_count
    values = getattr(values, "storage", values)  # the library `datasets`, if it is loaded, has types for arrays
    while hasattr(values.type, "value_type") and hasattr(values, "flatten"):
        values = values.flatten()
        missing += values.null_count
    if missing:
        raise ConfigError(f"{file}: {missing} values of {name!r} are missing.")
    shape = value_shape(name, info)
    given, declared = _dtype(values.type), _dtype(info["dtype"])
    if given is None or (given is not declared and (given, declared) != (torch.int64, torch.float32)):
        raise ConfigError(f"{file}: {name!r} must be of the type {info['dtype']}; it is {column.type}.")
    if len(values) != rows * math.prod(shape):
        raise ConfigError(f"{file}: {name!r} must have the shape {list(shape)} in each row; it is {column.type}.")
    return torch.tensor(values.to_numpy(zero_copy_only=False)).to(declared).reshape(rows, *shape)


def _dtype(name: object) -> torch.dtype | None:
    text = str(name).replace("halffloat", "float")
    return next((dtype for start, dtype in _DTYPES.items() if text.startswith(start)), None)


def _check_numbers(columns: Mapping[str, Tensor], episodes: Sequence[EpisodeSpan]) -> None:
    """Check that each row is the frame of the episode that it should be."""
    start = 0
    for episode in episodes:
        rows = slice(start, start + episode.end - episode.start)
        start = rows.stop
        frames = torch.arange(episode.start, episode.end)
        if not torch.equal(columns[INDEX][rows], frames) or (columns[EPISODE][rows] != episode.index).any():
            raise ConfigError(
                f"{episode.data_file}: the rows of episode {episode.index} must have the episode_index {episode.index}"
                f" and the index {episode.start} to {episode.end - 1}, and have others."
            )
