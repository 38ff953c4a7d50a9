"""Builds the optimizer of a component from its entry in the config."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pydantic import ValidationError
from torch import nn
from torch.optim import Optimizer

from optimizer import Horizon, ScheduledFactory, ScheduledOptimizer
from optimizer.config import explain, nest
from optimizer.factories import trainable_parameters
from optimizer.types import BuildsSeveral

from ..config.entries import OptimConfig
from ..distributed.placement import is_sharded
from ..errors import ConfigError, raised, user_line
from ..interfaces.component import config_path, is_frozen


def build_optimizer(name: str, optim: OptimConfig, component: nn.Module, horizon: Horizon) -> Optimizer:
    """Return the optimizer over the trainable parameters of a component.

    Args:
        name: The component's.
        optim: Its entry in `model.component_optims`.
        component: The component.
        horizon: The length of the run in steps of the component.

    Raises:
        ConfigError: The optimizer cannot be built, or does not fit the trainer's loop.
    """
    with _naming_placement(name, component), factory_errors(name, optim):
        several = isinstance(optim.factory, BuildsSeveral) and optim.factory.builds_multiple_optimizers
        optimizer = None if several else _build(optim, component, horizon)
    if optimizer is None:
        raise ConfigError(
            f"model.component_optims.{name}.type: {optim.type} builds several optimizers, and a component has one."
            " Make each of its parts a component with its own optimizer."
        )
    _refuse_closure(name, optim, optimizer)
    return optimizer


@contextmanager
def factory_errors(name: str, optim: OptimConfig) -> Iterator[None]:
    """Run the body, which uses the factory of component `name`'s optimizer.

    Raises:
        ConfigError: The body raised an exception. The message names the entry in the config.
    """
    path = ("model", "component_optims", name, "params")
    try:
        yield
    except ValidationError as error:
        raise ConfigError("\n".join(explain(nest(error, path)))) from error
    except ValueError as error:
        raise ConfigError(f"{'.'.join(path)}: {error}{user_line(error)}") from error
    except (Exception, SystemExit) as error:  # the factory may be the user's
        raise ConfigError(f"{'.'.join(path)}: {optim.type} cannot be built: {raised(error)}") from error


@contextmanager
def _naming_placement(name: str, component: nn.Module) -> Iterator[None]:
    """Run the body, and add to its ConfigError that the component is sharded, if it is: that may be the reason."""
    try:
        yield
    except ConfigError as error:
        if not is_sharded(component):
            raise
        raise ConfigError(f"{error}. The config gives {name} placement: shard") from error


def check_each_trains(components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> None:
    """Check that each component has an optimizer or is frozen, and that one of them trains.

    Raises:
        ConfigError: A trainable component has no entry in the config, or none is trainable.
    """
    for name, component in components.items():
        if name not in optimizers and not is_frozen(component):
            raise ConfigError(
                f"model.component_optims: no entry for component {name!r}, which is trainable."
                f" Add one, or set {config_path(components, name)}.freeze to true."
            )
    if not optimizers:
        raise ConfigError("model.components: every one is frozen; there is nothing to train")


def _build(optim: OptimConfig, component: nn.Module, horizon: Horizon) -> Optimizer:
    if isinstance(optim.factory, ScheduledFactory):
        return optim.factory.build(component, horizon=horizon)
    return build_over([*trainable_parameters(component).items()], optim, horizon)


def build_over(trainable: Sequence[tuple[str, nn.Parameter]], optim: OptimConfig, horizon: Horizon) -> Optimizer:
    """Return the optimizer of an entry of `model.component_optims` over named parameters.

    Args:
        trainable: The parameters.
        optim: The entry.
        horizon: The length of the run in steps of the optimizer.
    """
    build = optim.factory.build
    if "horizon" in inspect.signature(build).parameters:
        return build(trainable, horizon=horizon)
    return build(trainable)  # a factory written for `build(params)` alone


def _refuse_closure(name: str, optim: OptimConfig, optimizer: Optimizer) -> None:
    step = super(ScheduledOptimizer, optimizer).step if isinstance(optimizer, ScheduledOptimizer) else optimizer.step
    closure = inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"model.component_optims.{name}.type: {optim.type} evaluates the loss several times an update, which the"
            " trainer's loop does not. Choose another optimizer, or use it in your own loop."
        )
