"""Records the frames and the path of an episode, for pictures."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import raised
from ..interfaces.evaluation import Recording

if TYPE_CHECKING:
    from gymnasium import Env

_RATE = 30.0
"""Frames per second of a video, if the environment does not give its own rate."""
_DIMENSIONS = 3


class Recorder:
    """Records one episode at a time.

    Args:
        options: Arguments of `gymnasium.make` for an environment that renders.
        no_frames: The reason why it does not render; empty if it does.
        every: Steps from one frame to the next.
        path_of: The name of the vector whose path is recorded; empty: none.
        vector: Returns this vector of an observation.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        no_frames: str,
        every: int,
        path_of: str,
        vector: Callable[[Any], NDArray[Any]],
    ) -> None:
        self.options, self._no_frames, self._path_of, self._vector = options, no_frames, path_of, vector
        self._every, self._steps = every, 0
        self._frames: list[NDArray[np.uint8]] = []
        self._path: list[NDArray[Any]] = []
        self._rate = _RATE

    def begin(self, env: "Env[Any, Any]", observation: Any) -> None:
        """Begin an episode with its first observation."""
        self._frames, self._path, self._steps = [], [], 0
        with suppress(TypeError, ValueError):  # metadata are anyone's
            self._rate = float(env.metadata.get("render_fps") or _RATE)
        self.add(env, observation)

    def add(self, env: "Env[Any, Any]", observation: Any, is_last: bool = False) -> None:
        """Record the present moment: the path, and a frame if it is time for one."""
        if self._path_of:
            self._path.append(np.ravel(self._vector(observation))[:_DIMENSIONS].astype(np.float32))
        if not self._no_frames and (self._steps % self._every == 0 or is_last):
            self._frames.append(np.asarray(env.render(), dtype=np.uint8).copy())
        self._steps += 1

    def recording(self) -> Recording:
        """Return the recording since `begin`."""
        path = np.stack(self._path) if self._path else np.zeros((0, 0), np.float32)
        return Recording(self._frames, self._rate, self._no_frames, path, self._path_of)


def reason_not_to_render(make: Callable[[], "Env[Any, Any]"]) -> str:
    """Return why an environment cannot give frames; empty if it can.

    Args:
        make: Makes one with the render mode `rgb_array`.
    """
    env = None
    try:
        env = make()
        env.reset(seed=0)
        frame = np.asarray(env.render())
    except Exception as error:  # without OpenGL each simulator raises its own
        return raised(error)
    finally:
        if env is not None:
            with suppress(Exception):  # a viewer that could not be opened
                env.close()
    if frame.ndim != 3 or frame.shape[2] != 3:
        return f"render returns an array of shape {list(frame.shape)}, where (height, width, 3) is expected"
    return ""
