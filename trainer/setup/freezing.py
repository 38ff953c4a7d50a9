"""Freezes components, and submodules and parameters of them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from optimizer.config import nearest

from ..config.schema import ModelConfig
from ..errors import ConfigError
from ..interfaces.component import config_path, keep_in_eval


def freeze(components: nn.ModuleDict, config: ModelConfig) -> None:
    """Freeze what the config freezes, even if other code has unfrozen it.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    for name, entry in config.entries.items():
        component = components[name]
        if entry.freeze is True:
            keep_in_eval(component)
            _freeze(component)
        elif isinstance(entry.freeze, list):
            _freeze_matching(component, entry.freeze, f"{config_path(components, name)}.freeze")


def _freeze_matching(component: nn.Module, patterns: Sequence[str], path: str) -> None:
    """Freeze the submodules and parameters that match; modules frozen as a whole stay in eval mode."""
    modules = {name: module for name, module in component.named_modules(remove_duplicate=False) if name}
    parameters = dict(component.named_parameters(remove_duplicate=False))
    known = [*modules, *parameters]
    frozen: set[nn.Parameter] = set()
    for pattern in patterns:
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise ConfigError(f"{path}: {pattern!r} matches no submodule or parameter{nearest(pattern, known)}")
        for name in found:
            if name in modules:
                keep_in_eval(modules[name])
                frozen |= set(modules[name].parameters())
            else:
                frozen.add(parameters[name])
    for parameter in frozen:
        parameter.requires_grad = False
    for module in modules.values():
        own = set(module.parameters())
        if own and own <= frozen:
            keep_in_eval(module)


def _freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False  # requires_grad_() refuses parameters without a shape yet
