"""Evaluations of a policy by its episodes in an environment."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizer import Registry
from optimizer.types import JsonObject

from .policy import Actor


@dataclass(frozen=True)
class Episode:
    """One episode of a policy in an environment."""

    seed: int
    length: int
    """Steps."""
    total_reward: float
    """The sum of the rewards, without discount."""
    success: bool | None
    """Whether the task was solved; None: the environment does not say."""
    info: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the environment's `info`, by name."""
    record: JsonObject = field(default_factory=dict)
    """What a picture needs, if it was asked for."""


class Environment(ABC):
    """An environment in which a policy is evaluated. `train.evaluation.type` names a class by key."""

    @abstractmethod
    def episodes(
        self, actor: Actor, seeds: Sequence[int], batch_size: int, use_async_envs: bool, record: bool = False
    ) -> list[Episode]:
        """Run one episode for each seed, and return them in this order.

        Args:
            actor: Acts. It is reset before each batch of episodes.
            seeds: One an episode. An episode depends on its own seed alone, if the actor's actions do.
            batch_size: Environments at a time.
            use_async_envs: Whether each environment has a process of its own.
            record: Whether to record what a picture needs.

        Raises:
            ConfigError: The environment does not fit the policy.
        """


ENVIRONMENT_REGISTRY: Registry[Environment] = Registry(
    "environment", Environment, entry_points="innerstep.environments"
)
"""Classes of environments by key."""
