"""Records the demonstrations: Meta-World's scripted policy presses the button.

python -m button_press.record FOLDER [EPISODES]    # in the folder configs
"""

import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
from metaworld.policies import SawyerButtonPressTopdownV3Policy

from .environment import FPS, ID, Array, Observation
from .lerobot_writer import Columns, write_dataset

TASK = "Press the button from above."
NOISE = 0.2
"""Standard deviation of the noise on the actions. The demonstrations then show how to come back to the way; what is
recorded is the action without noise (DART, Laskey et al. 2017)."""
NAMES = {
    "observation.state": ["hand_x", "hand_y", "hand_z", "gripper_opening"],
    "observation.environment_state": ["button_x", "button_y", "button_z"],
    "action": ["hand_dx", "hand_dy", "hand_dz", "gripper_effort"],
}


def demonstration(env: gymnasium.Env[Observation, Array], seed: int) -> Columns | None:
    """Return the frames of one episode by feature; None: the button was not pressed."""
    expert, noise = SawyerButtonPressTopdownV3Policy(), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    frames, ended, success = [], False, False
    while not ended:
        state, scene = observation["agent_pos"], observation["environment_state"]
        action = np.clip(expert.get_action(np.concatenate([state, scene, np.zeros(32)])), -1, 1).astype(np.float32)
        frames.append((state, scene, action))
        observation, _, success, truncated, _ = env.step(np.clip(action + noise.normal(0, NOISE, 4), -1, 1))
        ended = success or truncated
    columns = (np.stack(column) for column in zip(*frames, strict=True))
    return dict(zip(NAMES, columns, strict=True)) if success else None


def main(root: Path, episodes: int = 30) -> None:
    """Record one episode for each seed from 0 on, and keep those in which the button is pressed."""
    warnings.filterwarnings("ignore", message="Constant")  # the scripted policy on actions that are clipped
    env = gymnasium.make(ID)
    kept: list[Columns] = []
    seed = 0
    while len(kept) < episodes:
        if (frames := demonstration(env, seed)) is not None:
            kept.append(frames)
        seed += 1
    write_dataset(root, kept, NAMES, FPS, TASK, "sawyer")
    print(f"{episodes} episodes of {seed} tries, {sum(len(frames['action']) for frames in kept)} frames: {root}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
