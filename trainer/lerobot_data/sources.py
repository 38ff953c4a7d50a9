"""Where a data set is: a folder, or a repository on the Hugging Face Hub through its cache."""

import os
from collections.abc import Sequence
from pathlib import Path

from optimizer.config import Config, Count, PositiveNumber, shown

from ..errors import ConfigError
from ..runtime import hub


class Source(Config):
    """One of several data sets: its place, its weight, and its episodes."""

    root: str | Path | None = None
    """Folder of the data set. `~` and `$NAME` are filled in."""
    repo_id: str | None = None
    """Its name on the Hugging Face Hub, in place of `root`."""
    revision: str | None = None
    """Branch, tag or commit of `repo_id`; null: its main branch."""
    weight: PositiveNumber | None = None
    """Share of the training samples, in relation to the other weights; null for all: each sample once an epoch."""
    episodes: list[Count] | None = None
    """Numbers of the episodes to load; null: all."""
    exclude_episodes: list[Count] | None = None
    """Numbers of episodes to leave out."""


def expanded(path: str | Path | None) -> Path | None:
    """Return a path with `~` and `$NAME` filled in, if it is text. Those of a config are filled in already."""
    return Path(os.path.expandvars(path)).expanduser() if isinstance(path, str) else path


def folder_of(source: Source, path: str) -> Path:
    """Return the folder of a data set, with `meta` in it.

    Args:
        source: The place.
        path: The place of the parameters in the config.

    Raises:
        ConfigError: There is not exactly one of `root` and `repo_id`, or the data set is not there.
    """
    folder = expanded(source.root)
    if (folder is None) == (source.repo_id is None):
        raise ConfigError(f"{path}: must have one of root and repo_id; it has {'both' if source.root else 'neither'}.")
    if folder is None:
        return download(source, ["meta/*"], path)
    if source.revision is not None:
        raise ConfigError(f"{path}.revision: belongs to repo_id; a folder has none. Leave it out.")
    if not folder.is_dir():
        hint = (
            " A name on the Hugging Face Hub is given as repo_id." if hub.is_repository_name(str(source.root)) else ""
        )
        raise ConfigError(
            f"{path}.root: must be the folder of a data set; {shown(folder.absolute())} is not one.{hint}"
        )
    return folder


def download(source: Source, patterns: Sequence[str], path: str) -> Path:
    """Return the folder of a repository's snapshot in the hub's cache, with files that match `patterns` in it.

    Without a connection, it is the snapshot that the cache has, whatever files it has.

    Raises:
        ConfigError: huggingface_hub is not installed, or the repository can be neither loaded nor found in the cache.
    """
    return hub.download(
        str(source.repo_id),
        source.revision,
        patterns,
        f"{path}.repo_id",
        kind="dataset",
        copy="the folder of a copy as root",
    )
