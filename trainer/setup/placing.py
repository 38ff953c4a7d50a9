"""Shards the components whose placement is `shard` over the processes of a run, and moves the others to the device."""

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from optimizer.config import listed, nearest, shown
from optimizer.state import is_sharded as is_sharded_tensor
from optimizer.state import torch_name

from ..config.schema import ModelConfig
from ..distributed.placement import shard
from ..distributed.world import World
from ..errors import ConfigError, raised
from ..interfaces.component import config_path
from ..interfaces.dataset import DataSet
from ..interfaces.objective import Objective
from ..loop.data_checks import TRAIN, first_batch
from ..runtime.devices import on_device
from ..splitting.parts import REST
from ..splitting.share import Share, is_in_parts, owned_modules, whole_module
from .components import move
from .dry_run import dry_run

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules that nothing calls."""

_Units = dict[str, nn.Module]
"""Modules whose parameters are gathered together, by path: inner ones before those around them."""


def sharded_names(config: ModelConfig, world: World) -> list[str]:
    """Return the names of the components to shard: none in the only process of a run. The rest of a policy is last."""
    if world.is_alone:
        return []
    names = [name for name, entry in config.entries.items() if entry.placement == "shard"]
    return sorted(names, key=lambda name: name == REST)


def device_before(config: ModelConfig, world: World) -> torch.device:
    """Return the device on which the components are until they are placed: the run's, or the CPU if one is sharded.

    It may be sharded because no device can hold the whole. All are on the same device, as they run together.
    """
    return torch.device("cpu") if sharded_names(config, world) else world.device


def place_components(
    objective: Objective, components: nn.ModuleDict, data: DataSet, config: ModelConfig, world: World
) -> None:
    """Shard components, as the config asks, and move the others and the objective's own modules to the device.

    Then a batch runs through them, as one has run through the whole ones. Without a component to shard nothing happens.
    Nothing may make or replace parameters afterwards. Optimizers are built over the placed components.

    Args:
        objective: The run's.
        components: Whole, by name.
        data: The data set.
        config: The `model` section.
        world: The processes of the run.

    Raises:
        ConfigError: A component cannot be sharded, or not in these units.
    """
    if not (names := sharded_names(config, world)):
        return
    for name in names:
        _shard(components[name], config.entries[name].shard_units, config_path(components, name), world, name == REST)
    move(objective, components, world.device)
    outcome = dry_run(objective, components, on_device(first_batch(data.train, TRAIN, 2), world.device))
    for name, loss in outcome.losses.items():
        if is_sharded_tensor(loss):
            raise ConfigError(
                f"train.objective: the loss {name!r} reads parameters of a sharded component beside its forward pass."
                f" Compute it in a method that the class names in `distributed_methods`, or set the placement of"
                f" {' or '.join(names)} to replicate."
            )


def _shard(component: nn.Module, patterns: Sequence[str], path: str, world: World, is_rest: bool) -> None:
    """Shard a component in the units that the patterns match."""
    units = _matching_modules(component, patterns, path) | _roots(component, path, is_rest)
    _check_parameters(component, units, path)
    own = set(component.parameters())
    scalars = {parameter for parameter in own if parameter.dim() == 0}
    others = {parameter for parameter in whole_module(component).parameters() if parameter not in own}
    try:
        shard(component, list(units.values()), world, scalars | others)
    except Exception as error:  # what torch refuses, in the words of torch
        raise ConfigError(f"{path}.placement: cannot be sharded: {raised(error)}") from error
    for module in component.modules():
        if isinstance(module, Share):
            module.follow_source()


def _matching_modules(component: nn.Module, patterns: Sequence[str], path: str) -> _Units:
    """Return the topmost submodules that each pattern matches."""
    modules = {name: module for name, module in component.named_modules() if name and not isinstance(module, Share)}
    chosen: _Units = {}
    for pattern in patterns:
        found = [name for name in modules if fnmatchcase(name, pattern)]
        if not found:
            known = nearest(pattern, list(modules))
            raise ConfigError(f"{path}.shard_units: {shown(pattern)!r} matches no submodule{known}")
        for name in _topmost(found):
            if isinstance(modules[name], _CONTAINERS):
                raise ConfigError(
                    f"{path}.shard_units: {shown(pattern)!r} matches {name!r}, a {type(modules[name]).__name__}, which"
                    f" nothing calls. Match the modules in it: '{name}.*'."
                )
            chosen[name] = modules[name]
    return {name: chosen[name] for name in sorted(chosen, key=lambda name: -name.count("."))}


def _topmost(names: Sequence[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _roots(component: nn.Module, path: str, is_rest: bool) -> _Units:
    """Return the modules that have all of a component: itself, the whole policy, or the modules of a part of one.

    Raises:
        ConfigError: A part has parameters that belong to none of its modules.
    """
    if is_rest or not is_in_parts(component):
        return {"": whole_module(component)}
    owned = set(owned_modules(component))
    roots = {name: module for name, module in component.named_modules() if module in owned}
    inside = {parameter for module in owned for parameter in module.parameters()}
    if outside := [name for name, parameter in component.named_parameters() if parameter not in inside]:
        raise ConfigError(
            f"{path}.placement: must be replicate for a part with parameters of a module that is not the part's as a"
            f" whole: {listed(outside)}"
        )
    return roots


def _check_parameters(component: nn.Module, units: _Units, path: str) -> None:
    """Check that each parameter is in one unit, and that the trainable ones of a unit have one type.

    Raises:
        ConfigError: They cannot be sharded in these units.
    """
    places: dict[nn.Parameter, tuple[str, str]] = {}
    types: defaultdict[str, dict[torch.dtype, str]] = defaultdict(dict)
    for name, parameter in component.named_parameters(remove_duplicate=False):
        unit = max((unit for unit in units if name.startswith(f"{unit}.")), key=len, default="")
        other, first = places.setdefault(parameter, (unit, name))
        if other != unit:
            raise ConfigError(
                f"{path}.shard_units: the parameter {name!r} is also {first!r}, and only one of the two is in the unit"
                f" {max(unit, other, key=len)!r}. Take units that have both, or leave this one out."
            )
        if parameter.requires_grad and parameter.dim() > 0:
            types[unit].setdefault(parameter.dtype, name)
    for unit, found in types.items():
        if len(found) > 1:
            text = listed([f"{name} is {torch_name(dtype)}" for dtype, name in found.items()])
            where = f"the unit {unit!r}" if unit else "what is in no unit"
            raise ConfigError(
                f"{path}.shard_units: the trainable parameters of {where} must have one type; {text}. Make units"
                " with one type each."
            )
