"""Policies: objectives that also act."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor, nn

from .dataset import Batch
from .features import Feature
from .objective import Objective


class Actor(Protocol):
    """Acts in several environments at once, and remembers what it needs of their episodes."""

    def reset(self) -> None:
        """Forget everything: a new episode begins in each environment."""
        ...

    def act(self, observation: Batch) -> Tensor:
        """Return the actions (N, …) for the observations of one time step of N environments.

        Args:
            observation: Tensors (N, …) by feature, in the units of the data set; frames are uint8.
        """
        ...


class Policy(Objective):
    """An objective that also acts: `losses` of a batch, and `actions` for observations."""

    n_obs_steps: int = 1
    """Time steps of each observation that `actions` sees."""
    features: Mapping[str, Feature] = MappingProxyType({})
    """The features that it reads and predicts, by name, once it is prepared; empty: unknown."""

    @abstractmethod
    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return the actions from now on (N, T, …), in the units of the data set.

        Args:
            components: The components by name, in eval mode.
            observation: Tensors (N, n_obs_steps, …) by feature, in the units of the data set; frames are uint8. The
                last time step is now.
        """

    @abstractmethod
    def actor(self, components: nn.ModuleDict) -> Actor:
        """Return an actor that keeps the history of observations, and decides how many actions of each prediction are
        carried out."""
