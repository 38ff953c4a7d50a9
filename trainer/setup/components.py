"""Builds the components, lets the objective prepare them, and moves them to the device."""

import zlib
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..config.schema import ModelConfig
from ..distributed.placement import compile_units, is_sharded, sharded_units
from ..errors import ConfigError, raised
from ..interfaces.component import Components, config_path, weights_follow
from ..interfaces.dataset import DataSet
from ..interfaces.objective import Objective, own_modules
from ..splitting.parts import REST, whole_module
from .freezing import freeze
from .initial_weights import Loaded, load_initial, replaces_all
from .policy import build_policy


def build_components(
    config: ModelConfig, seed: int, load_initial_weights: bool, log: Callable[[str], None]
) -> tuple[nn.ModuleDict, dict[str, Loaded]]:
    """Return the components by name, and the parameters that each `init_from` loaded, by its entry's path.

    Each one is initialised from the seed and its name. To add or to reorder components changes none of the others.

    Args:
        config: The `model` section.
        seed: The run's.
        load_initial_weights: Whether to load the weights that `init_from` names. A resumed run does not need them, and
            they may be gone.
        log: Prints a line.

    Raises:
        ConfigError: A component's class refuses its parameters, or `init_from` does not fit.
    """
    torch.manual_seed((seed + zlib.crc32(REST.encode())) % 2**63)
    policy, loaded = build_policy(config, load_initial_weights, log)
    components: nn.ModuleDict = Components(policy, config.config_paths)
    for name, component_config in config.components.items():
        torch.manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
        path = config_path(components, name)
        init = component_config.init_from
        with weights_follow(not load_initial_weights or replaces_all(init)):
            components[name] = component_config.make(path)
        if init is not None and load_initial_weights:
            loaded[path] = load_initial(path, init, components[name], log)
    freeze(components, config)
    refuse_shared_parameters(components)
    return components, loaded


def prepare(objective: Objective, components: nn.ModuleDict, data: DataSet, loaded: Mapping[str, Loaded]) -> None:
    """Let `objective` see the data and change the components, before they have optimizers.

    Args:
        objective: The run's.
        components: The components by name.
        data: The data set.
        loaded: The parameters that each `init_from` loaded. They must still be there afterwards.

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
            path = config_path(components, name)
            raise ConfigError(f"{path}: the objective's prepare removed it. Take it out of the config.")
    for name in components:
        if name not in before:
            raise ConfigError(f"model.components: the objective's prepare added {name!r}. Put it into the config.")
    there = {id(parameter) for parameter in components.parameters()}
    for path, parameters in loaded.items():
        if gone := [name for name, parameter in parameters.items() if id(parameter) not in there]:
            raise ConfigError(
                f"{path}.init_from: the objective's prepare replaced or removed parameters that were"
                f" loaded: {', '.join(gone)}. Leave them out with init_from.strict: false and init_from.rename, or"
                " give the component its final shape in its constructor."
            )


def move(objective: Objective, components: nn.ModuleDict, device: torch.device) -> None:
    """Move the components that are not sharded, and the objective's own modules, to `device`.

    Raises:
        ConfigError: One of them cannot be moved.
    """
    whole = {name: component for name, component in components.items() if not is_sharded(component)}
    modules = {config_path(components, name): component for name, component in whole.items()}
    own = {".".join(filter(None, ("train.objective", name))): module for name, module in own_modules(objective).items()}
    for path, module in (modules | own).items():
        try:
            module.to(device)
        except (RuntimeError, NotImplementedError) as error:  # no memory is left, or there are no values (meta)
            raise ConfigError(f"{path}: cannot be moved to {device}: {raised(error)}") from error


def compile_components(components: nn.ModuleDict) -> None:
    """Let torch.compile compile the forward and backward pass of each component, or of a policy as a whole."""
    done: set[nn.Module] = set()
    for component in components.values():
        compile_units(component)
        done.update(sharded_units(component))
    for module in dict.fromkeys(map(whole_module, components.values())):
        if module not in done:
            module.compile()


def refuse_shapeless_parameters(components: nn.ModuleDict) -> None:
    """Check that every lazy module has been run, so that its parameters have a shape.

    Raises:
        ConfigError: One has not been run.
    """
    for name, component in components.items():
        if lazy := [path for path, parameter in component.named_parameters() if is_lazy(parameter)]:
            raise ConfigError(
                f"{config_path(components, name)}: {', '.join(lazy)} have no shape yet, as the objective's losses do"
                " not run the lazy modules that they belong to. Use them there, or give their sizes in the constructor."
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
                    f"{config_path(components, name)}: its parameter {parameter_name!r} belongs to component {owner!r}"
                    " too. A parameter can have one optimizer only: put both into one component."
                )
