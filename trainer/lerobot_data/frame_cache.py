"""Frames that are decoded once, into a file that is mapped into memory."""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
import xxhash
from torch import Tensor

from optimizer.state import ASIDE, replacing

from ..errors import ConfigError
from ..runtime.files import checksum_of, remove
from ..runtime.terminal import report
from .lazy_frames import Decoder
from .meta import EpisodeSpan

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows: two runs may decode the same frames at once, each into its own file
    fcntl = None

_FORMAT = 1
"""Changes when the same sources would give another file."""


class CachedFrames:
    """Frames in a file, mapped into memory: the rows of the chosen episodes, one after another.

    Args:
        path: The file: uint8 (frames, *shape), and nothing else.
        shape: The shape of a frame.
        episodes: The episodes, in the order of their frames.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], episodes: Sequence[EpisodeSpan]) -> None:
        self.shape = shape
        self._path = path
        self._starts = torch.tensor([episode.start for episode in episodes])
        self._ends = torch.tensor([episode.end for episode in episodes])
        lengths = self._ends - self._starts
        self._rows = lengths.cumsum(0) - lengths  # of the first frame of each episode
        self._total = int(lengths.sum())
        self._frames: Tensor | None = None

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return frames, uint8 (*indices.shape, 3, height, width)."""
        if self._frames is None:  # "c": nothing is ever written to the file
            mapped = np.memmap(self._path, np.uint8, mode="c", shape=(self._total, *self.shape))
            self._frames = torch.from_numpy(mapped)
        numbers = indices.flatten()
        episode = torch.searchsorted(self._starts, numbers, right=True) - 1
        if bool(((episode < 0) | (numbers >= self._ends[episode])).any()):
            raise IndexError("a frame is asked for that is not in the chosen episodes")
        rows = self._rows[episode] + numbers - self._starts[episode]
        return self._frames.index_select(0, rows).view(*indices.shape, *self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}


def cached_frames(
    decoder: Decoder, camera: str, root: Path, episodes: Sequence[EpisodeSpan], cache_dir: Path | None, limit_gb: float
) -> CachedFrames:
    """Return the frames of `episodes` from a file in the cache, which is made first if it is not there.

    The file's name contains a checksum of its sources, so that another one is made when a source changes. A run waits
    for another one that makes it.

    Args:
        decoder: Decodes the frames.
        camera: The feature.
        root: The folder of the data set.
        episodes: The chosen episodes, in the order of their frames.
        cache_dir: The folder of all caches; None: the user's cache folder.
        limit_gb: The largest file that is made, in 10^9 bytes.

    Raises:
        ConfigError: The file would be too large, or cannot be written; a frame cannot be decoded.
    """
    shape = decoder.size.shape
    size = _frame_count(episodes) * math.prod(shape)
    key = checksum_of({"format": _FORMAT, "shape": shape, "source": decoder.identity()})[:16]
    path = _folder(cache_dir, root) / f"{camera}-{key}.u8"
    try:
        if _size_of(path) != size:
            _check_limit(camera, size, limit_gb)
            decoder.check()
            path.parent.mkdir(parents=True, exist_ok=True)
            with _only_one(path) as is_certain:
                if _size_of(path) != size:
                    if is_certain:
                        _remove_rests(path)
                    _make(path, size, decoder, camera, episodes)
    except OSError as error:
        reason = f"the frames of {camera} cannot be cached: {error.strerror or error}"
        raise ConfigError(f"{path}: {reason}. Name another cache_dir, or set frames to lazy.") from error
    decoder.close()
    return CachedFrames(path, shape, episodes)


def _remove_rests(path: Path) -> None:
    """Remove what processes that were killed have left of `path`. No other process may be making it."""
    for aside in path.parent.glob(f"{ASIDE}*/{path.name}"):
        remove(aside.parent)


def _make(path: Path, size: int, decoder: Decoder, camera: str, episodes: Sequence[EpisodeSpan]) -> None:
    """Decode all frames into `path`."""
    damaged = _size_of(path)
    if damaged is not None:
        report(f"{path}: has {damaged:,} bytes in place of {size:,}, and is made again")
    others = [other.stat().st_size for other in path.parent.glob(f"{camera}-*.u8") if other != path]
    if others:
        report(
            f"{path.parent}: {len(others)} other caches of {camera} are kept ({_shown(sum(others))}), of other options"
            " or of earlier files. They can be removed."
        )
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise ConfigError(
            f"{camera}: its frames need {_shown(size)}, and {path.parent} has {_shown(free)} left."
            " Name another folder with cache_dir, set resize to smaller frames, or set frames to lazy."
        )
    report(f"decoding {_frame_count(episodes):,} frames of {camera} into {path}: {_shown(size)}")
    numbers = chain.from_iterable(range(episode.start, episode.end) for episode in episodes)
    with replacing(path) as aside, aside.open("xb") as file:
        for frame in decoder.read(numbers, threads=0):
            file.write(frame.contiguous().numpy().data)


def _frame_count(episodes: Sequence[EpisodeSpan]) -> int:
    return sum(episode.end - episode.start for episode in episodes)


def _folder(cache_dir: Path | None, root: Path) -> Path:
    """Return the folder for the caches of the data set in the folder `root`."""
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "innerstep" / "frames"
    place = root.resolve()
    return cache_dir / f"{place.name}-{xxhash.xxh3_64_hexdigest(str(place).encode())[:8]}"


def _check_limit(camera: str, size: int, limit_gb: float) -> None:
    if size > limit_gb * 1e9:
        raise ConfigError(
            f"{camera}: its decoded frames need {_shown(size)}, and cache_limit_gb is {limit_gb:g}."
            " Raise cache_limit_gb, set resize to smaller frames, or set frames to lazy."
        )


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Run the body while no other process or thread runs it for the same `path`. Waits for one that does.

    Yields whether that is certain. Where there are no locks, both decode, each into its own file.
    """
    with path.with_suffix(".lock").open("ab") as file:
        yield fcntl is not None and _lock(file, fcntl, path)


def _lock(file: BinaryIO, fcntl: ModuleType, path: Path) -> bool:
    """Return whether `file` is locked, at once or after waiting; False: its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        report(f"waiting for {path}, which another run makes")
        fcntl.flock(file, fcntl.LOCK_EX)
    return True


def _size_of(path: Path) -> int | None:
    """Return the bytes in a file; None if it is missing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
