"""Pendulum-v1 of gymnasium in the units of `transitions.npz`: `innerstep/Pendulum-v0`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import RescaleAction, TransformObservation
from numpy.typing import NDArray

ID = "innerstep/Pendulum-v0"
SCALE = np.array([1, 1, 1 / 8], np.float32)
"""Factors of the observation: cosine and sine of the angle, and the angular velocity, which is within -8 and 8."""

Array = NDArray[Any]


def make(**options: Any) -> gymnasium.Env[Array, Array]:
    """Return the environment. Its actions are within -1 and 1, the reward is gymnasium's.

    Args:
        options: Those of Pendulum-v1.
    """
    env: gymnasium.Env[Array, Array] = gymnasium.make("Pendulum-v1", **options)
    bounds = np.ones(3, np.float32)
    scaled = TransformObservation(env, lambda seen: seen * SCALE, Box(-bounds, bounds, dtype=np.float32))
    return RescaleAction(scaled, np.float32(-1), np.float32(1))


gymnasium.register(ID, entry_point=f"{__name__}:make", max_episode_steps=200)
