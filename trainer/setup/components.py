"""Builds the components, lets the objective prepare them, and freezes those that the config freezes."""

import zlib
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..checkpoint.init_from import init_component
from ..config.schema import ComponentConfig, ModelConfig
from ..errors import ConfigError, raised
from ..interfaces.dataset import DataSet
from ..interfaces.objective import Objective, own_modules
from ..splitting.parts import REST
from .policy import build_policy

Loaded = Mapping[str, Mapping[str, nn.Parameter]]
"""The parameters that `init_from` loaded, by component and name."""


def build_components(
    config: ModelConfig, seed: int, load_initial: bool, log: Callable[[str], None]
) -> tuple[nn.ModuleDict, Loaded]:
    """Return the components by name, and which of their parameters `init_from` loaded.

    Each one is initialised from the seed and its name. To add or to reorder components changes none of the others.

    Args:
        config: The `model` section.
        seed: The run's.
        load_initial: Whether to load the weights that `init_from` names. A resumed run does not need them, and they may
            be gone.
        log: Prints a line.

    Raises:
        ConfigError: A component's class refuses its parameters, or `init_from` does not fit.
    """
    torch.manual_seed((seed + zlib.crc32(REST.encode())) % 2**63)
    components = nn.ModuleDict(build_policy(config))
    loaded = {}
    for name, component_config in config.components.items():
        torch.manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
        components[name] = component_config.make(f"model.components.{name}")
        if component_config.init_from is not None and load_initial:
            loaded[name] = _load_initial(name, component_config, components[name], log)
    freeze(components, config)
    refuse_shared_parameters(components)
    return components, loaded


def prepare(objective: Objective, components: nn.ModuleDict, data: DataSet, loaded: Loaded) -> None:
    """Let `objective` see the data and change the components, before they have optimizers.

    Args:
        objective: The run's.
        components: The components by name.
        data: The data set.
        loaded: The parameters that `init_from` loaded. They must still be there afterwards.

    Raises:
        ConfigError: The objective fails, or adds, removes or replaces something that it must not.
    """
    before = list(components)
    try:
        objective.prepare(components, data)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # an objective is the user's code, which may raise anything
        raise ConfigError(f"train.objective: its prepare fails: {raised(error)}") from error
    for name in before:
        if name not in components:
            raise ConfigError(
                f"model.components.{name}: the objective's prepare removed it. Take it out of the config."
            )
    for name in components:
        if name not in before:
            raise ConfigError(f"model.components: the objective's prepare added {name!r}. Put it into the config.")
    for name, parameters in loaded.items():
        there = {id(parameter) for parameter in components[name].parameters()}
        if gone := [path for path, parameter in parameters.items() if id(parameter) not in there]:
            raise ConfigError(
                f"model.components.{name}.init_from: the objective's prepare replaced or removed parameters that were"
                f" loaded: {', '.join(gone)}. Leave them out with init_from.strict: false and init_from.rename, or"
                " give the component its final shape in its constructor."
            )


def move(objective: Objective, components: nn.ModuleDict, device: torch.device) -> None:
    """Move the components and the objective's own modules to `device`.

    Raises:
        ConfigError: One of them cannot be moved.
    """
    modules = {f"model.components.{name}": component for name, component in components.items()}
    own = {".".join(filter(None, ("train.objective", name))): module for name, module in own_modules(objective).items()}
    for path, module in (modules | own).items():
        try:
            module.to(device)
        except (RuntimeError, NotImplementedError) as error:  # no memory is left, or there are no values (meta)
            raise ConfigError(f"{path}: cannot be moved to {device}: {raised(error)}") from error


def compile_components(components: nn.ModuleDict) -> None:
    """Let torch.compile compile the forward and backward pass of each component."""
    for component in components.values():
        component.compile()


def freeze(components: nn.ModuleDict, config: ModelConfig) -> None:
    """Freeze the components that the config freezes, even if other code has unfrozen them."""
    for name, component_config in config.entries.items():
        if component_config.freeze is True:
            for parameter in components[name].parameters():
                parameter.requires_grad = False  # requires_grad_() refuses parameters without a shape yet


def refuse_shapeless_parameters(components: nn.ModuleDict) -> None:
    """Check that every lazy module has been run, so that its parameters have a shape.

    Raises:
        ConfigError: One has not been run.
    """
    for name, component in components.items():
        if lazy := [path for path, parameter in component.named_parameters() if is_lazy(parameter)]:
            raise ConfigError(
                f"model.components.{name}: {', '.join(lazy)} have no shape yet, as the objective's losses do not run"
                " the lazy modules that they belong to. Use them there, or give their sizes in the constructor."
            )


def refuse_shared_parameters(components: nn.ModuleDict) -> None:
    """Check that each parameter belongs to one component.

    Raises:
        ConfigError: Two components have a parameter in common.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, component in components.items():
        for parameter_name, parameter in component.named_parameters():
            owner = owners.setdefault(parameter, name)
            if owner != name:
                raise ConfigError(
                    f"model.components.{name}: its parameter {parameter_name!r} belongs to component {owner!r} too."
                    " A parameter can have one optimizer only: put both into one component."
                )


def _load_initial(
    name: str, config: ComponentConfig, component: nn.Module, log: Callable[[str], None]
) -> dict[str, nn.Parameter]:
    """Load the source in `init_from` of a component, and return the parameters that it loaded."""
    path = f"model.components.{name}.init_from"
    assert config.init_from is not None, "else there is nothing to load"
    if any(is_lazy(tensor) for tensor in (*component.parameters(), *component.buffers())):
        raise ConfigError(f"{path}: the component has lazy modules, whose parameters have no shape to load into yet.")
    try:
        names, lines = init_component(name, config.init_from, component)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    for line in lines:
        log(line)
    chosen = set(names)
    return {name: parameter for name, parameter in component.named_parameters() if name in chosen}
