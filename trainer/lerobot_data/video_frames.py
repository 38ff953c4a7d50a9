"""A camera whose frames are in video files."""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import ConfigError
from .decoding import READERS, FrameError, FrameSize, PyavReader, VideoReader, choose_backend
from .meta import EpisodeSpan

_MAX_OPEN = 64
"""Files of a camera that are kept open. With one file an episode there may be thousands."""


class VideoFrames:
    """Decodes the frames of a camera from video files, which are kept open between requests.

    Args:
        camera: The feature.
        fps: Frames a second.
        episodes: The chosen episodes, in the order of their frames.
        size: The frames' size.
        backend: The decoder.

    Raises:
        ConfigError: A file is missing, or torchcodec is asked for and does not load.
    """

    def __init__(
        self,
        camera: str,
        fps: float,
        episodes: Sequence[EpisodeSpan],
        size: FrameSize,
        backend: Literal["auto", "pyav", "torchcodec"],
    ) -> None:
        self.size = size
        self._camera, self._fps, self._episodes = camera, fps, episodes
        self._starts = [episode.start for episode in episodes]
        for episode in episodes:
            if camera not in episode.videos:
                raise ConfigError(f"{camera}: meta/episodes names no video of episode {episode.index}")
        self._by_file: dict[Path, list[EpisodeSpan]] = {}
        for episode in episodes:
            self._by_file.setdefault(episode.videos[camera].path, []).append(episode)
        for path, of_file in self._by_file.items():
            if not path.is_file():
                raise ConfigError(f"{self._where(path, of_file)} is missing. Download it again, or leave it out.")
        self._backend = choose_backend(backend, next(iter(self._by_file)))
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()
        self._process = os.getpid()

    def identity(self) -> list[object]:
        """Return the sources of the frames as plain values, which change if a file changes."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._by_file]
        numbers = {path: number for number, path in enumerate(self._by_file)}
        spans = [(e.index, e.start, e.end, e.videos[self._camera]) for e in self._episodes]
        places = [(*span[:3], numbers[span[3].path], span[3].start_seconds) for span in spans]
        return [self._backend, self._fps, stats, places]

    def check(self) -> None:
        """Check, without decoding, that the files have the frames of the episodes; see `Decoder.check`."""
        for path, episodes in self._by_file.items():
            frames = sum(episode.end - episode.start for episode in episodes)
            last = max(self._place(episode.end - 1)[1] for episode in episodes)
            try:
                reader = PyavReader(path)
                try:
                    reader.check(frames, last, self.size)
                finally:
                    reader.close()
            except FrameError as error:
                where = self._where(path, episodes)
                raise ConfigError(f"{where}: {error}. Restore the file, or leave the episodes out.") from error

    def read(self, numbers: Iterable[int], threads: int = 1) -> Iterator[Tensor]:
        """Yield the frames of ascending `numbers`; see `Decoder.read`."""
        for path, group in groupby(map(self._place, numbers), key=lambda place: place[0]):
            places = list(group)
            done = 0
            try:
                for frame in self._reader(path, threads).read([seconds for _, seconds, _, _ in places]):
                    yield self.size.fit(frame)
                    done += 1
            except FrameError as error:
                _, seconds, episode, frame_index = places[done]
                raise ConfigError(
                    f"{path}: frame {frame_index} of episode {episode} (at {seconds:.4f} s): {error}."
                    " Restore the file, or leave the episode out."
                ) from error

    def close(self) -> None:
        """Close all files."""
        if self._process == os.getpid():
            for reader in self._open.values():
                reader.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _place(self, number: int) -> tuple[Path, float, int, int]:
        """Return a frame's file, its time in it, its episode and its number in the episode."""
        episode = self._episodes[bisect_right(self._starts, number) - 1]
        video, frame_index = episode.videos[self._camera], number - episode.start
        return video.path, video.start_seconds + frame_index / self._fps, episode.index, frame_index

    def _reader(self, path: Path, threads: int) -> VideoReader:
        if self._process != os.getpid():  # after a fork: the open files' positions are shared with the parent
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            if len(self._open) >= _MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[path] = READERS[self._backend](path, threads)
        self._open.move_to_end(path)
        return self._open[path]

    def _where(self, path: Path, episodes: Sequence[EpisodeSpan]) -> str:
        first, last = episodes[0].index, episodes[-1].index
        return (
            f"{path}: the video of {self._camera} in episode{f's {first} to {last}' if first != last else f' {first}'}"
        )
