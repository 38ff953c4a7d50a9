"""Components, which are any nn.Modules, and the registry of their classes."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from optimizer import Registry
from optimizer.factories import trainable_parameters

from .dataset import DataSet

MODEL_REGISTRY: Registry[nn.Module] = Registry("component", nn.Module, entry_points="innerstep.models")
"""Classes of components by key: subclasses of nn.Module. A config also takes any other one by its dotted path."""


def is_frozen(component: nn.Module) -> bool:
    """Return whether no parameter of `component` requires a gradient."""
    return not trainable_parameters(component)


def train_mode(components: nn.ModuleDict) -> None:
    """Put the trainable components in train mode and the frozen ones in eval mode."""
    components.training = True  # for objectives that ask; evaluating has set it to false
    for component in components.values():
        component.train(not is_frozen(component))


@runtime_checkable
class CompletesParams(Protocol):
    """A class of components with parameters that follow from the data set."""

    @classmethod
    def complete_params(cls, params: Mapping[str, Any], data: DataSet) -> Mapping[str, Any]:
        """Return `params` with those that the data set decides. What is given stays.

        Raises:
            ConfigError: They do not fit the data set.
        """
        ...
