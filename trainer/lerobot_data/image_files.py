"""A camera whose frames are PNG or JPEG images, in the parquet files or beside them."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, missing_extra
from .decoding import FrameError, FrameSize
from .meta import EpisodeSpan, Meta

_KEPT_BYTES = 1 << 30
"""Encoded images that a process keeps in memory. Those of a row group of a parquet file are read together."""

_ORIENTATION = 0x0112
"""The number of the EXIF entry for how a photo was held."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats of images that are read. Pillow has more, one of which (EPS) is code that it runs by another program."""

Image = dict[str, Any]
"""An image as Hugging Face's `datasets` stores it: `bytes`, and a `path` that counts if there are no bytes."""


class ImageFrames:
    """Decodes the frames of a camera from a column of images, by Pillow.

    Args:
        camera: The feature.
        meta: The data set.
        episodes: The chosen episodes, in the order of their frames.
        size: The frames' size.

    Raises:
        ConfigError: A file or Pillow is missing.
    """

    def __init__(self, camera: str, meta: Meta, episodes: Sequence[EpisodeSpan], size: FrameSize) -> None:
        self.size = size
        self._camera, self._root, self._episodes = camera, meta.root, episodes
        _check_pillow()
        spans = _spans_of_files(meta)
        self._files = {path: spans[path] for path in dict.fromkeys(episode.data_file for episode in episodes)}
        for path in self._files:
            if not path.is_file():
                raise ConfigError(f"{path}: is missing. Download it again.")
        self._groups: list[tuple[Path, int]] = []  # the row groups: a file, and the number in it
        self._group_starts: list[int] = []  # the frame in the first row of each
        self._kept: OrderedDict[int, list[Image]] = OrderedDict()
        self._kept_bytes = 0

    def identity(self) -> list[object]:
        """Return the sources of the frames as plain values, which change if a file changes."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._files]
        return ["pillow", stats, [(episode.index, episode.start, episode.end) for episode in self._episodes]]

    def check(self) -> None:
        """Check that the files have the frames of the episodes, and decode the first one; see `Decoder.check`."""
        self._groups, self._group_starts = [], []
        for path, (start, end) in self._files.items():
            counts = self._rows_of(path)
            if sum(counts) != end - start:
                raise ConfigError(
                    f"{path}: has {sum(counts):,} rows, and its episodes have {end - start:,} frames. Restore the file."
                )
            for group, count in enumerate(counts):
                self._groups.append((path, group))
                self._group_starts.append(start)
                start += count
        next(self.read([self._episodes[0].start]))

    def read(self, numbers: Iterable[int], threads: int = 1) -> Iterator[Tensor]:
        """Yield the frames of ascending `numbers`; see `Decoder.read`. `threads` has no effect."""
        for number in numbers:
            group = bisect_right(self._group_starts, number) - 1
            path = self._groups[group][0]
            row = number - self._group_starts[group]
            try:
                frame = self.size.fit(self._decode(self._images(group)[row]))
            except FrameError as error:
                at = next(episode for episode in reversed(self._episodes) if episode.start <= number)
                raise ConfigError(
                    f"{path}: {self._camera}: the image of frame {number - at.start} of episode {at.index}: {error}."
                    " Restore it, or leave the episode out."
                ) from error
            yield frame

    def close(self) -> None:
        """Drop the images in memory."""
        self._kept.clear()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_bytes": 0}

    def _rows_of(self, path: Path) -> list[int]:
        """Return the rows of each row group of a file."""
        with _opened(path) as file:
            if self._camera not in file.schema_arrow.names:
                raise ConfigError(f"{path}: has no column {self._camera}, which meta/info.json names")
            return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    def _images(self, group: int) -> list[Image]:
        """Return the images of a row group."""
        if group not in self._kept:
            path, number = self._groups[group]
            with _opened(path) as file:
                images = file.read_row_group(number, [self._camera])[self._camera].to_pylist()
            self._kept[group] = images
            self._kept_bytes += _bytes_of(images)
            while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= _bytes_of(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(group)
        return self._kept[group]

    def _decode(self, image: Image | None) -> Tensor:
        """Return an image, uint8 (3, height, width).

        It is turned upright as `datasets` does it.

        Raises:
            FrameError: It is missing, damaged or not in RGB.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        try:
            with Pillow.open(self._source(image), formats=_FORMATS) as opened:
                opened.load()
                upright = ImageOps.exif_transpose(opened) if opened.getexif().get(_ORIENTATION) else opened
                if upright.mode != "RGB":
                    raise FrameError(f"must be in RGB with 8 bits a channel; Pillow's mode of it is {upright.mode}")
                return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()
        except (OSError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise FrameError(f"it cannot be read: {error}") from error

    def _source(self, image: Image | None) -> BytesIO | Path:
        if not isinstance(image, dict) or not (image.get("bytes") or image.get("path")):
            raise FrameError("it has neither bytes nor a path")
        return BytesIO(image["bytes"]) if image.get("bytes") else self._root / image["path"]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield a parquet file as a pyarrow.parquet.ParquetFile, which has no types."""
    import pyarrow.parquet  # read_columns has asked for it

    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # type: ignore[no-untyped-call]  # see above
            yield file
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors of invalid files are ValueErrors
        raise ConfigError(f"{path}: cannot be read: {error}. If it was cut, copy or download it again.") from error


def _spans_of_files(meta: Meta) -> dict[Path, tuple[int, int]]:
    """Return, by parquet file, its first frame in the data set and one past its last."""
    spans: dict[Path, tuple[int, int]] = {}
    for episode in meta.episodes:
        start, _ = spans.get(episode.data_file, (episode.start, episode.end))
        spans[episode.data_file] = start, episode.end
    return spans


def _bytes_of(images: Sequence[Image]) -> int:
    return sum(len(image["bytes"] or b"") for image in images if isinstance(image, dict) and "bytes" in image)


def _check_pillow() -> None:
    try:
        import PIL  # noqa: F401  # only whether it is there
    except ImportError:
        raise missing_extra("a camera whose frames are images", "pillow", "robot") from None
