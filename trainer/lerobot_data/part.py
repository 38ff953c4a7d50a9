"""`open_part`: one data set on disk with its splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from pathlib import Path

import xxhash
from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.features import Feature
from .columns import read_columns
from .deltas import all_deltas, check_steps, default_deltas
from .episodes import chosen_episodes, split_episodes
from .features import chosen_features, is_camera, type_of, value_shape
from .frames import FrameOptions, frame_size, open_frames
from .image_transforms import make_transforms
from .meta import EpisodeSpan, Meta
from .reading import read_meta
from .sources import Source, download, folder_of
from .value_checks import TIMESTAMP, check_finite, check_tasks, check_times
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
    episodes: frozenset[int]
    """The numbers of the episodes that are loaded."""
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
    cameras = [name for name, info in infos.items() if is_camera(info)]
    _check_camera_options(cameras, options, decoding)
    deltas = _deltas(infos, options, meta.fps)
    episodes = chosen_episodes(meta.episodes, source.episodes, source.exclude_episodes or [], path)
    split = split_episodes(episodes, options.held_out, PARAMS)
    _check_drop(split, options.drop_n_last_frames)
    transforms = _transforms({name: infos[name] for name in cameras}, options, decoding)  # decoding may take long
    files = _needed_files(episodes, cameras)
    if source.repo_id is not None:
        same = source.model_copy(update={"revision": meta.root.name})  # the commit, if the branch moves meanwhile
        download(same, ["meta/*", *(file.relative_to(meta.root).as_posix() for file in files)], path)
    _check_files(files)
    columns = _columns(meta, infos, episodes)
    table = Table(columns, {name: open_frames(meta, name, episodes, decoding) for name in cameras})
    windows = partial(Windows, table, list(infos), deltas, drop_n_last_frames=options.drop_n_last_frames)
    rows = _rows(episodes)
    train, held_out = ([rows[episode.index] for episode in some] for some in split)
    splits = windows(train, transforms=transforms), windows(held_out) if held_out else None
    fingerprint = _fingerprint(meta, columns, files if cameras else [])
    return Part(meta, infos, _features(infos, table), deltas, frozenset(rows), *splits, fingerprint)


def _check_camera_options(cameras: Sequence[str], options: PartOptions, decoding: FrameOptions) -> None:
    given = [field.name for field in fields(decoding) if getattr(decoding, field.name) != field.default]
    given += ["image_transforms"] if options.image_transforms else []
    if given and not cameras:
        raise ConfigError(f"{PARAMS}.{given[0]}: is for frames of cameras, and no camera is loaded. Leave it out.")


def _deltas(infos: Mapping[str, JsonObject], options: PartOptions, fps: float) -> dict[str, Sequence[int]]:
    frames, seconds = options.deltas or {}, options.delta_timestamps or {}
    defaults = default_deltas(infos, options.n_obs_steps, options.chunk)
    deltas = all_deltas(defaults, frames, seconds, infos, fps, PARAMS)
    check_steps(infos, {*frames, *seconds}, options.n_obs_steps, options.chunk, PARAMS)
    return deltas


def _check_drop(split: Iterable[Sequence[EpisodeSpan]], drop_n_last_frames: int) -> None:
    for name, episodes in zip(("to train on", "held out"), split, strict=True):
        if episodes and max(episode.end - episode.start for episode in episodes) <= drop_n_last_frames:
            raise ConfigError(
                f"{PARAMS}.drop_n_last_frames: must be less than the frames of an episode; {drop_n_last_frames}"
                f" leaves no frame of the episodes {name}."
            )


def _transforms(
    cameras: Mapping[str, JsonObject], options: PartOptions, decoding: FrameOptions
) -> dict[str, Callable[[Tensor], Tensor]]:
    specs = options.image_transforms
    sizes = {name: frame_size(name, info, decoding.resize) for name, info in cameras.items()}
    return {name: make_transforms(specs, size.shape) for name, size in sizes.items()} if specs else {}


def _columns(meta: Meta, infos: Mapping[str, JsonObject], episodes: Sequence[EpisodeSpan]) -> dict[str, Tensor]:
    """Return the checked columns of all features but cameras, and the times by which videos are read."""
    values = {name: info for name, info in infos.items() if not is_camera(info)}
    has_videos = any(info["dtype"] == "video" for info in infos.values())
    timed = {TIMESTAMP: meta.features[TIMESTAMP]} if has_videos and TIMESTAMP in meta.features else {}
    columns = read_columns(meta, values | timed, episodes)
    check_finite(meta, values, columns)
    check_tasks(meta, columns)
    if timed:
        check_times(meta, columns)
    return columns


def _rows(episodes: Sequence[EpisodeSpan]) -> dict[int, tuple[int, int]]:
    """Return, by number of an episode, its first row in the columns, and one past its last."""
    ends = list(accumulate(episode.end - episode.start for episode in episodes))
    return {episode.index: (start, end) for episode, start, end in zip(episodes, [0, *ends[:-1]], ends, strict=True)}


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


def _fingerprint(meta: Meta, columns: Mapping[str, Tensor], files: Sequence[Path]) -> str:
    """Return a checksum of the values, the tasks, the statistics, and the sizes of the files with frames."""
    checksum = xxhash.xxh3_128()
    for name in sorted(columns):
        checksum.update(f"{name} {columns[name].dtype} {list(columns[name].shape)}".encode())
        checksum.update(columns[name].numpy().tobytes())
    sizes = [(file.relative_to(meta.root).as_posix(), file.stat().st_size) for file in files]
    checksum.update(repr([meta.fps, meta.tasks, meta.statistics, sizes]).encode())
    return checksum.hexdigest()
