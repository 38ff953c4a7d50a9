"""`open_part`: one data set on disk with its splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.features import Feature
from .columns import read_columns
from .deltas import all_deltas, default_deltas
from .episodes import chosen_episodes, split_episodes
from .features import chosen_features, is_camera, type_of, value_shape
from .frames import FrameOptions, open_frames
from .image_transforms import make_transforms
from .meta import EpisodeSpan, Meta
from .reading import read_meta
from .sources import Source, download, folder_of
from .windows import Table, Windows

PARAMS = "data.params"
"""The place of the data set's parameters in a config."""


@dataclass(frozen=True)
class PartOptions:
    """The choices that all parts of a data set share. The fields are parameters of `LeRobotData`."""

    held_out: float | Sequence[int] = 0.0
    n_obs_steps: int = 1
    chunk: int = 1
    deltas: Mapping[str, Sequence[int]] | None = None
    delta_timestamps: Mapping[str, Sequence[float]] | None = None
    features: Sequence[str] | None = None
    drop_n_last_frames: int = 0
    image_transforms: Sequence[JsonObject] | None = None


@dataclass(frozen=True)
class Part:
    """One data set on disk."""

    meta: Meta
    infos: Mapping[str, JsonObject]
    """The features that are loaded, as in info.json."""
    features: Mapping[str, Feature]
    """Those of them that policies see."""
    deltas: Mapping[str, Sequence[int]]
    """The time steps of a sample by feature, as distances in frames."""
    train: Windows
    held_out: Windows | None
    fingerprint: str
    """Changes with the content of the episodes that are loaded."""


def open_part(source: Source, options: PartOptions, decoding: FrameOptions, path: str) -> Part:
    """Return a data set, of which the chosen episodes are loaded.

    Args:
        source: Its place and its episodes.
        options: The features to load, and the way to split.
        decoding: The way to decode frames.
        path: The place of `source` in the config.

    Raises:
        ConfigError: A file or a feature is missing or invalid, or a parameter does not fit the data.
    """
    meta = read_meta(folder_of(source, path))
    infos = chosen_features(meta, options.features, PARAMS)
    deltas = all_deltas(
        default_deltas(infos, options.n_obs_steps, options.chunk),
        options.deltas or {},
        options.delta_timestamps or {},
        infos,
        meta.fps,
        PARAMS,
    )
    episodes = chosen_episodes(meta.episodes, source.episodes, source.exclude_episodes or [], path)
    cameras = [name for name, info in infos.items() if is_camera(info)]
    files = _needed_files(episodes, cameras)
    if source.repo_id is not None:
        same = source.model_copy(update={"revision": meta.root.name})  # the commit, if the branch moves meanwhile
        download(same, ["meta/*", *(file.relative_to(meta.root).as_posix() for file in files)], path)
    _check_files(files)
    values = {name: info for name, info in infos.items() if name not in cameras}
    columns = read_columns(meta, values, episodes)
    _check_finite(meta, values, columns)
    table = Table(columns, {name: open_frames(meta, name, episodes, decoding) for name in cameras})
    train, held_out = _splits(table, list(infos), deltas, episodes, options)
    fingerprint = _fingerprint(meta, columns, files if cameras else [])
    return Part(meta, infos, _features(infos, table), deltas, train, held_out, fingerprint)


def _splits(
    table: Table,
    keys: Sequence[str],
    deltas: Mapping[str, Sequence[int]],
    episodes: Sequence[EpisodeSpan],
    options: PartOptions,
) -> tuple[Windows, Windows | None]:
    def windows(some: Sequence[EpisodeSpan], transforms: Mapping[str, Callable[[Tensor], Tensor]]) -> Windows:
        spans = [rows[episode.index] for episode in some]
        return Windows(table, keys, deltas, spans, options.drop_n_last_frames, transforms)

    rows: dict[int, tuple[int, int]] = {}
    end = 0
    for episode in episodes:
        rows[episode.index] = (end, end := end + episode.end - episode.start)
    train, held_out = split_episodes(episodes, options.held_out, PARAMS)
    specs = options.image_transforms
    transforms = {name: make_transforms(specs, frames.shape) for name, frames in table.frames.items() if specs}
    splits = windows(train, transforms), windows(held_out, {}) if held_out else None
    for name, split in zip(("to train on", "held out"), splits, strict=True):
        if split is not None and len(split) == 0:
            raise ConfigError(
                f"{PARAMS}.drop_n_last_frames: must be less than the frames of an episode; {options.drop_n_last_frames}"
                f" leaves no frame of the episodes {name}."
            )
    return splits


def _features(infos: Mapping[str, JsonObject], table: Table) -> dict[str, Feature]:
    features = {}
    for name, info in infos.items():
        if kind := type_of(name, info):
            features[name] = Feature(
                kind, table.frames[name].shape if name in table.frames else value_shape(name, info)
            )
    return features


def _needed_files(episodes: Sequence[EpisodeSpan], cameras: Sequence[str]) -> list[Path]:
    videos = (episode.videos[name].path for episode in episodes for name in cameras if name in episode.videos)
    return list(dict.fromkeys([*(episode.data_file for episode in episodes), *videos]))


def _check_files(files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file}: the data set has no such file. Copy or download it again.")


def _check_finite(meta: Meta, features: Mapping[str, JsonObject], columns: Mapping[str, Tensor]) -> None:
    for name, info in features.items():
        if type_of(name, info) is not None and not (finite := columns[name].isfinite()).all():
            row = (
                int(finite.flatten(1).all(1).logical_not().nonzero()[0])
                if finite.dim() > 1
                else int(finite.long().argmin())
            )
            raise ConfigError(
                f"{meta.root}: {name!r} has NaN or an infinite value in episode {int(columns['episode_index'][row])},"
                f" frame {int(columns['index'][row])}. Leave the episode out by {PARAMS}.exclude_episodes."
            )


def _fingerprint(meta: Meta, columns: Mapping[str, Tensor], files: Sequence[Path]) -> str:
    """Return a checksum of the values, the tasks, the statistics, and the sizes of the files with frames."""
    checksum = xxhash.xxh3_128()
    for name in sorted(columns):
        checksum.update(f"{name} {columns[name].dtype} {list(columns[name].shape)}".encode())
        checksum.update(columns[name].numpy().tobytes())
    sizes = [(file.relative_to(meta.root).as_posix(), file.stat().st_size) for file in files]
    checksum.update(repr([meta.fps, meta.tasks, meta.statistics, sizes]).encode())
    return checksum.hexdigest()
