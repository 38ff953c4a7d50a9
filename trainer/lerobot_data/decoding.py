"""Frames of a video file by their time, decoded by PyAV or torchcodec."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from av import VideoFrame

Backend = Literal["pyav", "torchcodec"]

TOLERANCE_SECONDS = 1e-4
"""How far a frame's time may be from the one that is asked for, as LeRobot's `tolerance_s`."""

_CHUNK = 64
"""Frames that torchcodec decodes in one call."""


class FrameError(ValueError):
    """A frame that cannot be decoded. The message gives the reason; the caller knows which frame it is."""


@dataclass(frozen=True)
class FrameSize:
    """The size of a camera's frames in its files, and the one that they get."""

    height: int
    width: int
    resize: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame that `fit` returns: 3, height, width."""
        return 3, *(self.resize or (self.height, self.width))

    def mismatch(self, height: int, width: int) -> str:
        """Return the message for a frame of another size."""
        return f"it has {height} × {width} pixels, and meta/info.json has {self.height} × {self.width}"

    def fit(self, frame: Tensor) -> Tensor:
        """Return a decoded frame, uint8 (3, height, width), resized if that is asked for.

        Resizing is bilinear with antialiasing, as torch's `interpolate` does it for uint8.

        Raises:
            FrameError: The frame has another size.
        """
        if tuple(frame.shape) != (3, self.height, self.width):
            raise FrameError(self.mismatch(*frame.shape[1:]))
        if self.resize is None or self.resize == (self.height, self.width):
            return frame
        return interpolate(frame[None], self.resize, mode="bilinear", antialias=True)[0]


class VideoReader(Protocol):
    """An open video file."""

    def read(self, seconds: Sequence[float]) -> Iterator[Tensor]:
        """Yield the frame of each time, uint8 (3, height, width).

        Args:
            seconds: Times in the file, ascending.

        Raises:
            FrameError: There is no frame at a time, or it cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class PyavReader:
    """A video file that PyAV decodes.

    It stays where the last request ended: it decodes on from there, or from the keyframe before the next time if that
    is nearer. How far keyframes are apart is learnt from the file as it is read.

    Args:
        path: The file.
        threads: Threads of the decoder; 0: the decoder chooses.

    Raises:
        FrameError: The file cannot be opened, or holds no video.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        av = import_av()
        from av.video.reformatter import VideoReformatter

        self._failures = (av.FFmpegError, OSError)
        try:
            self._container = av.open(str(path))
        except self._failures as error:
            raise FrameError(f"it cannot be opened: {error}") from error
        videos = self._container.streams.video
        if not videos or videos[0].codec_context is None:  # None: the codec is not known
            raise FrameError("it holds no video that PyAV can decode")
        self._stream = videos[0]
        self._stream.codec_context.thread_count = threads
        self._reformatter = VideoReformatter()  # one for all frames: a new one takes longer than decoding a small frame
        self._decoded = self._container.decode(self._stream)
        self._frame: VideoFrame | None = None
        self._time = -1.0  # of the last frame that was decoded
        self._keyframe = float("inf")
        self._interval = 0.0  # the longest stretch of frames seen without a keyframe, in seconds

    def read(self, seconds: Sequence[float]) -> Iterator[Tensor]:
        """Yield the frame of each time, uint8 (3, height, width)."""
        for wanted in seconds:
            rgb = self._rgb(self._find(wanted)).to_ndarray()
            yield torch.from_numpy(rgb).permute(2, 0, 1).contiguous()

    def check(self, frames: int, last: float, size: FrameSize) -> None:
        """Check, without decoding, that the file holds what is expected of it.

        Args:
            frames: The frames that it must have at least.
            last: The time of the last one, in seconds.
            size: The frames' size.

        Raises:
            FrameError: It has fewer frames, none at this time, or frames of another size.
        """
        context, found = self._stream.codec_context, self._stream.frames
        if 0 < found < frames:  # 0: not known
            raise FrameError(f"it has {found:,} frames, and its episodes have {frames:,}")
        if (context.height, context.width) != (size.height, size.width):
            raise FrameError(size.mismatch(context.height, context.width))
        try:
            end = self._last_packet(last)
        except self._failures as error:
            raise FrameError(f"its frame at {last:.4f} s cannot be read: {error}") from error
        if end < last - TOLERANCE_SECONDS:
            found_last = f"its last whole frame is at {end:.4f} s" if end >= 0 else "no frame is whole"
            raise FrameError(f"it is cut: {found_last}, and its episodes need one at {last:.4f} s")

    def close(self) -> None:
        """Close the file."""
        self._frame = None
        self._container.close()

    def _last_packet(self, until: float) -> float:
        """Return the time of the latest whole packet that is found up to `until`, from the keyframe before it."""
        self._seek(until)
        end = -1.0
        for packet in self._container.demux(self._stream):
            if packet.pts is not None and packet.size and not packet.is_corrupt:
                end = max(end, float(packet.pts * packet.time_base))
            if end >= until - TOLERANCE_SECONDS:
                break
        self._seek(0.0)
        return end

    def _find(self, wanted: float) -> "VideoFrame":
        try:
            if self._time > wanted + TOLERANCE_SECONDS or wanted - self._time > self._interval + TOLERANCE_SECONDS:
                self._seek(wanted)
                self._decode()
                self._interval = max(self._interval, wanted - self._time)
                if self._time > wanted + TOLERANCE_SECONDS:  # a file whose keyframes are not listed by their times
                    self._seek(0.0)
            while self._frame is None or self._time < wanted - TOLERANCE_SECONDS:
                self._decode()
        except StopIteration:
            self._seek(0.0)
            raise FrameError("the file ends before it") from None
        except self._failures as error:
            self._seek(0.0)
            raise FrameError(f"it cannot be decoded: {error}") from error
        if self._time > wanted + TOLERANCE_SECONDS:
            raise FrameError(f"the next frame is at {self._time:.4f} s, and must be within {TOLERANCE_SECONDS} s")
        return self._frame

    def _rgb(self, frame: "VideoFrame") -> "VideoFrame":
        try:  # by default it starts threads, which do not survive a fork: freeing them there would wait for ever
            return self._reformatter.reformat(frame, format="rgb24", threads=1)
        except TypeError:  # an earlier PyAV, which starts none
            return self._reformatter.reformat(frame, format="rgb24")

    def _decode(self) -> None:
        """Decode the next frame that has a time."""
        frame = next(self._decoded)
        while frame.pts is None:
            frame = next(self._decoded)
        self._frame, self._time = frame, float(frame.pts * self._stream.time_base)
        if frame.key_frame:
            self._interval = max(self._interval, self._time - self._keyframe)
            self._keyframe = self._time

    def _seek(self, seconds: float) -> None:
        """Go to the last keyframe at or before a time."""
        self._container.seek(round(seconds / self._stream.time_base), backward=True, stream=self._stream)
        self._decoded = self._container.decode(self._stream)
        self._frame, self._time, self._keyframe = None, -1.0, float("inf")


class TorchcodecReader:
    """A video file that torchcodec decodes.

    Args:
        path: The file.
        threads: Threads of the decoder; 0: the decoder chooses.

    Raises:
        FrameError: The file cannot be opened, or torchcodec does not load.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            from torchcodec.decoders import VideoDecoder

            self._decoder = VideoDecoder(str(path), num_ffmpeg_threads=threads, seek_mode="exact")
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # it loads FFmpeg's libraries here
            raise FrameError(f"torchcodec cannot open it: {_first_line(error)}") from error

    def read(self, seconds: Sequence[float]) -> Iterator[Tensor]:
        """Yield the frame of each time, uint8 (3, height, width)."""
        for start in range(0, len(seconds), _CHUNK):
            wanted = seconds[start : start + _CHUNK]
            try:
                # What is shown at a time began at it or before; times are rounded.
                batch = self._decoder.get_frames_played_at([time + TOLERANCE_SECONDS for time in wanted])
            except (RuntimeError, ValueError, IndexError) as error:
                raise FrameError(f"it cannot be decoded: {_first_line(error)}") from error
            for time, found, frame in zip(wanted, batch.pts_seconds.tolist(), batch.data, strict=True):
                if found < time - TOLERANCE_SECONDS:
                    raise FrameError(
                        f"the frame before it is at {found:.4f} s, and must be within {TOLERANCE_SECONDS} s"
                    )
                yield frame

    def close(self) -> None:
        """Drop the decoder, which closes the file."""
        del self._decoder


READERS: dict[Backend, type[PyavReader] | type[TorchcodecReader]] = {"pyav": PyavReader, "torchcodec": TorchcodecReader}
"""The readers by backend."""


def choose_backend(choice: Literal["auto", "pyav", "torchcodec"], path: Path) -> Backend:
    """Return the backend that decodes: `auto` is torchcodec if it loads and reads the file `path`, else PyAV.

    Raises:
        ConfigError: torchcodec is asked for and does not load.
    """
    if choice == "pyav":
        return "pyav"
    try:
        TorchcodecReader(path).close()
    except FrameError as error:
        if choice == "auto":
            return "pyav"
        raise ConfigError(
            f"data.params.video_backend: torchcodec cannot be used: {path}: {error}. Use auto or pyav."
        ) from error
    return "torchcodec"


def import_av() -> ModuleType:
    """Return the module `av`.

    Raises:
        ConfigError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise missing_extra("a camera whose frames are in videos", "av", "robot") from None
    return av


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
