"""Frames as an mp4 file."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_video(frames: Sequence[NDArray[np.uint8]], frames_per_second: float, path: Path) -> None:
    """Write the new file `path`, H.264 in mp4.

    Args:
        frames: Pictures (height, width, 3) of one size. An odd height or width loses its last row or column, which
            H.264 cannot hold.
        frames_per_second: Of the video.
        path: The file, of any name.
    """
    import av

    height, width = (size - size % 2 for size in frames[0].shape[:2])
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
