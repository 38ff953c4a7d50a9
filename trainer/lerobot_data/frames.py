"""The frames of a camera by their number in the data set, decoded once or when a batch asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from .decoding import FrameSize
from .frame_cache import cached_frames
from .image_files import ImageFrames
from .lazy_frames import Decoder, LazyFrames
from .meta import EpisodeSpan, Meta
from .video_frames import VideoFrames


@dataclass(frozen=True)
class FrameOptions:
    """How the frames of the cameras are decoded."""

    frames: Literal["cache", "lazy"] = "cache"
    """`cache`: all frames once, into a file that is mapped into memory. `lazy`: those of a batch, when it is made."""
    cache_dir: Path | None = None
    """The folder of the caches; None: `innerstep/frames` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    cache_limit_gb: float = 20.0
    """The largest cache of one camera that is made, in 10^9 bytes."""
    resize: tuple[int, int] | None = None
    """Height and width to which frames are resized when they are decoded; None: as they are."""
    video_backend: Literal["auto", "pyav", "torchcodec"] = "auto"
    """The decoder of videos; `auto`: torchcodec where it loads, else PyAV."""


class FrameSource(Protocol):
    """The frames of one camera. It can be sent to worker processes, forked or spawned."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame: 3, height, width."""
        ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return frames, uint8 (*indices.shape, 3, height, width).

        Args:
            indices: Numbers of frames in the whole data set, int64 of any shape, all in the chosen episodes.

        Raises:
            ConfigError: A frame cannot be decoded. The message names the file and the frame.
        """
        ...


def open_frames(meta: Meta, camera: str, episodes: Sequence[EpisodeSpan], options: FrameOptions) -> FrameSource:
    """Return the frames of `camera` in `episodes`.

    Args:
        meta: The data set.
        camera: A feature whose dtype is `video` or `image`.
        episodes: The chosen episodes, in the order of their frames.
        options: How they are decoded.

    Raises:
        ConfigError: A file is missing, cut or has another number of frames; the cache would be too large; a library is
            missing. The message names the file and the remedy.
    """
    feature = meta.features[camera]
    size = frame_size(camera, feature, options.resize)
    decoder: Decoder
    if feature["dtype"] == "video":
        decoder = VideoFrames(camera, meta.fps, episodes, size, options.video_backend)
    else:
        decoder = ImageFrames(camera, meta, episodes, size)
    if options.frames == "lazy":
        return LazyFrames(decoder)
    return cached_frames(decoder, camera, meta.root, episodes, options.cache_dir, options.cache_limit_gb)


def frame_size(camera: str, feature: JsonObject, resize: tuple[int, int] | None) -> FrameSize:
    """Return the size of a camera's frames, from its feature in meta/info.json.

    Raises:
        ConfigError: They are not frames in color.
    """
    shape, names = feature["shape"], feature.get("names")
    info = feature.get("info") or {}
    if info.get("is_depth_map") or info.get("video.is_depth_map"):
        raise ConfigError(f"{camera}: holds depth maps, which are not supported. Leave it out.")
    if not isinstance(shape, list | tuple) or len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise ConfigError(f"{camera}: its shape in meta/info.json must be height, width and 3 channels; got {shape}")
    channels_first = shape[2] != 3 or (
        shape[0] == 3 and isinstance(names, list) and str(names[0]).startswith("channel")
    )
    height, width = shape[1:] if channels_first else shape[:2]
    return FrameSize(int(height), int(width), resize)
