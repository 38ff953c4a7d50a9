"""Frames that are decoded when a batch asks for them."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from .decoding import FrameSize


class Decoder(Protocol):
    """Decodes the frames of one camera by their numbers in the data set."""

    size: FrameSize

    def identity(self) -> list[object]:
        """Return the sources of the frames as plain values, which change if a file changes."""
        ...

    def check(self) -> None:
        """Check, without decoding, that the files have the frames that the episodes need.

        Raises:
            ConfigError: A file is missing or cut, has too few frames or frames of another size. The message names the
                file and the episodes.
        """
        ...

    def read(self, numbers: Iterable[int], threads: int = 1) -> Iterator[Tensor]:
        """Yield the frames of ascending `numbers`, uint8 of the shape `size.shape`.

        Args:
            numbers: Numbers of frames in the whole data set, ascending, all in the chosen episodes.
            threads: Threads that decode a file which is not open yet; 0: the library chooses.

        Raises:
            ConfigError: A frame is missing or cannot be decoded. The message names the file, the episode and the frame.
        """
        ...

    def close(self) -> None:
        """Close all files."""
        ...


class LazyFrames:
    """The frames of a camera, decoded at each request: each one once, in the order of the files.

    Args:
        decoder: Decodes them.

    Raises:
        ConfigError: A file is missing or cut, has too few frames or frames of another size.
    """

    def __init__(self, decoder: Decoder) -> None:
        decoder.check()
        self._decoder = decoder

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame: 3, height, width."""
        return self._decoder.size.shape

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return frames, uint8 (*indices.shape, 3, height, width)."""
        numbers, place = torch.unique(indices, return_inverse=True)
        frames = torch.empty(len(numbers), *self.shape, dtype=torch.uint8)
        for row, frame in enumerate(self._decoder.read(numbers.tolist())):
            frames[row] = frame
        return frames.index_select(0, place.flatten()).view(*indices.shape, *self.shape)
