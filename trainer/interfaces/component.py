"""Components, which are any nn.Modules, and the registry of their classes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from optimizer import Registry
from optimizer.factories import trainable_parameters

from ..splitting.share import is_in_parts, settle_containers
from .dataset import DataSet

MODEL_REGISTRY: Registry[nn.Module] = Registry("component", nn.Module, entry_points="innerstep.models")
"""Classes of components by key: subclasses of nn.Module. A config also takes any other one by its dotted path."""


_FROZEN_FOR_NOW = "_frozen_for_now"
"""Attribute of components that `freeze_for_now` was called with: the parameters that it froze, by name."""
_STAYS_IN_EVAL = "_stays_in_eval"
"""Attribute of modules that `keep_in_eval` was called with."""


class Components(nn.ModuleDict):
    """The components of a run by name, which know the paths of their entries in the config.

    Args:
        modules: By name.
        config_paths: By name, for those whose path is not model.components.NAME.
    """

    def __init__(self, modules: Mapping[str, nn.Module], config_paths: Mapping[str, str]) -> None:
        super().__init__(modules)
        self.config_paths = dict(config_paths)


def config_path(components: nn.ModuleDict, name: str) -> str:
    """Return the path in the config of the component `name`, for messages."""
    path = components.config_paths.get(name) if isinstance(components, Components) else None
    return path or f"model.components.{name}"


def config_paths(components: nn.ModuleDict) -> dict[str, str]:
    """Return the path in the config of each component by name."""
    return {name: config_path(components, name) for name in components}


def is_frozen(component: nn.Module) -> bool:
    """Return whether no parameter of `component` requires a gradient."""
    return not trainable_parameters(component)


def freeze_for_now(component: nn.Module) -> None:
    """Freeze the trainable parameters of a component, which has an optimizer, until `unfreeze` is called."""
    parameters = trained_parameters(component)
    vars(component)[_FROZEN_FOR_NOW] = parameters
    for parameter in parameters.values():
        parameter.requires_grad = False


def unfreeze(component: nn.Module) -> None:
    """Undo `freeze_for_now`."""
    for parameter in vars(component).pop(_FROZEN_FOR_NOW, {}).values():
        parameter.requires_grad = True


def trained_parameters(component: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient or are frozen for now, by name."""
    return {**vars(component).get(_FROZEN_FOR_NOW, {}), **trainable_parameters(component)}


_WEIGHTS_FOLLOW = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow(whether: bool) -> Iterator[None]:
    """Run the body, which builds components, and let `do_weights_follow` return `whether` in it."""
    token = _WEIGHTS_FOLLOW.set(whether)
    try:
        yield
    finally:
        _WEIGHTS_FOLLOW.reset(token)


def do_weights_follow() -> bool:
    """Return whether saved weights replace all those of the component that is built now.

    A constructor needs no pretrained weights then, and does not have to load or download them.
    """
    return _WEIGHTS_FOLLOW.get()


def keep_in_eval(module: nn.Module) -> None:
    """Let `train_mode` leave `module` in eval mode, with fixed buffers."""
    vars(module)[_STAYS_IN_EVAL] = True


def train_mode(components: nn.ModuleDict) -> None:
    """Put the trainable components in train mode, and in eval mode the frozen ones and those that `keep_in_eval` had.

    What a policy that was taken apart has beside its parts is in train mode too if it has no parameters.
    """
    components.training = True  # for objectives that ask; evaluating has set it to false
    for component in components.values():
        has_none = next(component.parameters(), None) is None
        component.train(not is_frozen(component) or (has_none and is_in_parts(component)))
    for module in components.modules():
        if _STAYS_IN_EVAL in vars(module):
            module.eval()
    settle_containers(components.values())


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


@runtime_checkable
class NamesMethods(Protocol):
    """A class of components with methods beside `forward` that compute with its parameters.

    A component with `placement: shard` has its whole parameters only while its `forward` or one of these methods runs.
    An objective that calls another method of it fails. A method that calls the component itself must not use its
    parameters after that call; the parameters of a module in `shard_units` are there only while that module is called.
    """

    distributed_methods: ClassVar[Sequence[str]]
    """The names of the methods, such as `("sample", "log_prob")`."""


@runtime_checkable
class NotesData(Protocol):
    """A class of components that a data set may fit, and still not as the user wants."""

    @classmethod
    def data_notes(cls, params: Mapping[str, Any], data: DataSet) -> Sequence[str]:
        """Return lines on such differences, which are logged at the start.

        Args:
            params: The complete ones.
            data: The data set.
        """
        ...
