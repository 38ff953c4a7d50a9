"""Optimizers and schedulers of other libraries by dotted path, checked against the class's signature."""

import inspect
from typing import Any

from pydantic import Field, create_model
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY
from optimizer.schedule import SCHEDULE_REGISTRY
from optimizer.schedules.pytorch import TorchSchedule, scheduler_fields
from optimizer.signatures import plain_types
from optimizer.torch_optimizers import NOT_OPTIONS, OPTION_MEANINGS, TorchFactory


class ImportedFactory(TorchFactory):
    """Base of the factories of classes that are named by their dotted path."""

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the optimizer class: those that are not its own defaults, and the lr."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in self.option_names()}
        return {name: value for name, value in given.items() if name == "lr" or value != fields[name].default}

    def __reduce__(self) -> Any:
        return _factory_again, (OPTIMIZER_BUILDER_REGISTRY.key_of(type(self)), self.model_dump())


class ImportedSchedule(TorchSchedule):
    """Base of the schedules of classes that are named by their dotted path."""

    def __reduce__(self) -> Any:
        return _schedule_again, (SCHEDULE_REGISTRY.key_of(type(self)), self.model_dump())


def imported_factory(path: str, optimizer_class: type[Optimizer]) -> type[ImportedFactory]:
    """Return a factory of `optimizer_class`, an optimizer of any library, with its arguments as fields.

    Raises ValueError if it has no lr, or an argument by the name of a field that all factories have.
    """
    parameters = list(inspect.signature(optimizer_class).parameters.values())[1:]  # the first are the tensors
    types = plain_types(optimizer_class)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if name in NOT_OPTIONS or name not in types:
            continue
        if name in ImportedFactory.model_fields:
            raise ValueError(f"its argument {name!r} has the name of a field that every factory has")
        meaning = OPTION_MEANINGS.get(name, f"See {path}.")
        if parameter.default is parameter.empty or _is_plain(parameter.default):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (types[name], Field(default, description=meaning))
        else:
            fields[name] = (Any, Field(None, description=f"{meaning} Left out, the class's own default."))
    if "lr" not in fields:
        raise ValueError("it has no argument lr, which a schedule could move")
    made = create_model(optimizer_class.__name__, __base__=ImportedFactory, __module__=__name__, **fields)
    made.__doc__ = (
        f"{path}: {(optimizer_class.__doc__ or '').strip().splitlines()[0] if optimizer_class.__doc__ else ''}"
    )
    made.optimizer_class = optimizer_class
    return made


def imported_schedule(path: str, scheduler_class: type[LRScheduler]) -> type[ImportedSchedule]:
    """Return a schedule that runs `scheduler_class`, a scheduler of any library, with its arguments as fields."""
    fields = scheduler_fields(scheduler_class)
    made = create_model(scheduler_class.__name__, __base__=ImportedSchedule, __module__=__name__, **fields)
    made.__doc__ = f"{path}, run as its own object."
    made.scheduler_class = scheduler_class
    return made


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _factory_again(path: str, fields: dict[str, Any]) -> Any:
    return OPTIMIZER_BUILDER_REGISTRY[path](**fields)


def _schedule_again(path: str, fields: dict[str, Any]) -> Any:
    return SCHEDULE_REGISTRY[path](**fields)


OPTIMIZER_BUILDER_REGISTRY.adapt(Optimizer, imported_factory)
SCHEDULE_REGISTRY.adapt(LRScheduler, imported_schedule)
