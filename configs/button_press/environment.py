"""Meta-World's `button-press-topdown-v3` as a gymnasium environment: `innerstep/ButtonPress-v0`."""

import importlib
import os
import pickle
import sys
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from metaworld.envs.sawyer_button_press_topdown_v3 import SawyerButtonPressTopdownEnvV3
from metaworld.types import Task
from numpy.typing import NDArray

ID = "innerstep/ButtonPress-v0"
FPS = 80
"""Steps a second of simulated time."""
MAX_STEPS = 150
VIEW = slice(115, 315), slice(110, 360)
"""The part of a frame that has the button and the hand: 200 rows, 250 columns."""

Array = NDArray[Any]
Observation = dict[str, Array]
RenderMode = Literal["rgb_array"]


class ButtonPress(gymnasium.Env[Observation, Array]):
    """A Sawyer arm presses a button from above. An episode ends as soon as the button is down.

    The button stands anywhere in 20 x 10 cm. Meta-World draws its places when it is constructed, and ignores the seed
    of `reset`; here `reset(seed=...)` alone decides the episode.

    Observation: `agent_pos`: position of the hand in metres and opening of the gripper (0 to 1). `environment_state`:
    position of the button in metres. Action: displacement of the hand in centimetres and effort of the gripper, each
    within -1 and 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 gymnasium's form

    def __init__(self, render_mode: RenderMode | None = None) -> None:
        if render_mode is not None:
            _use_egl_without_display()
        self._sawyer: Any = SawyerButtonPressTopdownEnvV3(render_mode, "corner2", width=480, height=480)  # half typed
        self.render_mode = render_mode
        self.action_space = self._sawyer.action_space
        boxes: dict[str, Space[Any]] = {
            "agent_pos": Box(-2.0, 2.0, (4,), np.float32),
            "environment_state": Box(-2.0, 2.0, (3,), np.float32),
        }
        self.observation_space: Any = Dict(boxes)  # its type cannot be stated

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        places = self._sawyer._random_reset_space  # Meta-World has no public name for it
        place = self.np_random.uniform(places.low, places.high)
        task = {"rand_vec": place, "env_cls": type(self._sawyer), "partially_observable": True}
        self._sawyer.set_task(Task("button-press-topdown-v3", pickle.dumps(task)))
        observation, _ = self._sawyer.reset()
        return _split(observation), {"is_success": False}

    def step(self, action: Array) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self._sawyer.step(np.asarray(action, np.float32))
        success = bool(info["success"])
        return _split(observation), float(reward), success, False, {"is_success": success}

    def render(self) -> Array | None:
        frame = self._sawyer.render()
        return None if frame is None else np.flipud(frame)[VIEW]  # the camera `corner2` is upside down

    def close(self) -> None:
        self._sawyer.close()


def _use_egl_without_display() -> None:
    """Render by EGL if there is no display. Gymnasium tries to open a window otherwise, and prints that it cannot."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    if os.environ.get("MUJOCO_GL") == "egl":
        try:  # here, as gymnasium's renderer would print a second error
            importlib.import_module("mujoco.egl")
        except (AttributeError, ImportError) as error:
            raise RuntimeError(f"there is no OpenGL to render with: EGL cannot be loaded ({error})") from error


def _split(observation: Array) -> Observation:
    """Return the entries of Meta-World's observation that change in this task."""
    return {
        "agent_pos": observation[:4].astype(np.float32),
        "environment_state": observation[4:7].astype(np.float32),
    }


gymnasium.register(ID, entry_point=f"{__name__}:ButtonPress", max_episode_steps=MAX_STEPS)
