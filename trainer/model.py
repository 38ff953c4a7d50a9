"""Builds the components, freezes what is frozen, and keeps it so."""

import zlib
from collections.abc import Callable

import torch
from torch import nn

from trainer.config import ComponentConfig, ModelConfig
from trainer.errors import ConfigError
from trainer.parts import load_part


def build_components(config: ModelConfig, seed: int, load_initial: bool, say: Callable[[str], None]) -> nn.ModuleDict:
    """Return the components by name. Each is initialised from the seed and its own name, so that to
    add or to reorder components changes none of the others. load_initial: whether to load what
    `init_from` names, which a resumed run does not need, and may not have any more. say: prints a line.

    Raises ConfigError where a component's class refuses its parameters, or init_from does not fit.
    """
    components = nn.ModuleDict()
    for name, component_config in config.components.items():
        torch.manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
        components[name] = _build(name, component_config, load_initial, say)
    _refuse_shared_parameters(components)
    return components


def is_frozen(component: nn.Module) -> bool:
    """Return whether no parameter of `component` requires a gradient."""
    return not any(parameter.requires_grad for parameter in component.parameters())


def train_mode(components: nn.ModuleDict) -> None:
    """Put the trainable components in train mode and the frozen ones in eval mode."""
    components.training = True  # for objectives that ask; evaluating has set it to false
    for component in components.values():
        component.train(not is_frozen(component))


def _build(name: str, config: ComponentConfig, load_initial: bool, say: Callable[[str], None]) -> nn.Module:
    path = ("model", "components", name)
    component: nn.Module = config.make(".".join(path))
    if config.init_from is not None and load_initial:
        try:
            for line in load_part(name, config.init_from, component):
                say(line)
        except ValueError as error:
            raise ConfigError(f"{'.'.join(path)}.init_from: {error}") from error
    if config.freeze:
        component.requires_grad_(False)
    return component


def _refuse_shared_parameters(components: nn.ModuleDict) -> None:
    owners: dict[nn.Parameter, str] = {}
    for name, component in components.items():
        for parameter_name, parameter in component.named_parameters():
            owner = owners.setdefault(parameter, name)
            if owner != name:
                raise ConfigError(
                    f"model.components.{name}: its parameter {parameter_name!r} belongs to component {owner!r} too."
                    " A parameter can have one optimizer only: put both into one component."
                )
