"""Evaluations of a policy by its episodes in an environment."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer import Registry

from .features import Feature
from .policy import Actor

TAKEN_NAMES = frozenset({"split", "step", "epoch", "nonfinite", "loss", "success", "return", "episode_length"})
"""Names that a number in `info` cannot have as a metric, as a line of metrics has them already."""


@dataclass(frozen=True)
class Recording:
    """Frames and path of an episode, for a picture or a video."""

    frames: Sequence[NDArray[np.uint8]]
    """Pictures (height, width, 3) from the start to the end; empty where the environment cannot render."""
    frames_per_second: float
    no_frames: str
    """The reason why there are no frames; empty if there are some."""
    path: NDArray[np.float32]
    """The first numbers, at most three, of an observed vector over time (T, D)."""
    path_of: str
    """The name of this vector; empty if the environment has none."""


@dataclass(frozen=True)
class Episode:
    """One episode of a policy in an environment."""

    seed: int
    length: int
    """Steps."""
    total_reward: float
    """The sum of the rewards, without discount."""
    success: bool | None
    """Whether the task was solved; None: unknown, and counted as false if that of another episode is known."""
    info: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the environment's `info`, by name. Each is a metric, but those called as in TAKEN_NAMES."""
    recording: Recording | None = None
    """Its recording, if it was asked for."""


class Environment(ABC):
    """An environment in which a policy is evaluated. `train.evaluation.type` names a class by key."""

    name: str = "the environment"
    """The environment in messages."""

    def features(self) -> Mapping[str, Feature]:
        """Return the features of its observations, by name; empty: unknown.

        Raises:
            ConfigError: The environment cannot be made.
        """
        return {}

    @abstractmethod
    def episodes(
        self,
        actor: Actor,
        seeds: Sequence[int],
        batch_size: int,
        use_async_envs: bool,
        record: int = 0,
        max_steps: int | None = None,
    ) -> list[Episode]:
        """Run one episode for each seed, and return them in this order.

        Args:
            actor: Acts. It is reset before each batch of episodes.
            seeds: One an episode. An episode depends on its own seed alone, if the actor's actions do.
            batch_size: Environments at a time.
            use_async_envs: Whether each environment has a separate process.
            record: Steps from one recorded frame to the next, beside the first and the last one; 0: no recording.
            max_steps: Steps after which an episode is cut; None: where the environment ends it.

        Raises:
            ConfigError: The environment does not fit the policy.
            UserCodeError: The environment fails.
        """

    def close(self) -> None:  # noqa: B027 an environment may hold nothing
        """End the processes and free what `episodes` has made. The next call makes it again."""


ENVIRONMENT_REGISTRY: Registry[Environment] = Registry(
    "environment", Environment, entry_points="innerstep.environments"
)
"""Classes of environments by key."""
