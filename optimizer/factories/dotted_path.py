"""Optimizers and schedulers of other libraries by dotted path, checked against the class's signature."""

import inspect
import math
from typing import Any, Self

from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, create_model, model_validator
from schedulefree.adamw_schedulefree import AdamWScheduleFree
from schedulefree.radam_schedulefree import RAdamScheduleFree
from schedulefree.sgd_schedulefree import SGDScheduleFree
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..config.signatures import plain_types
from ..config.validation import refusal
from ..schedules.base import SCHEDULE_REGISTRY, Schedule
from ..schedules.horizon import Horizon
from ..schedules.pytorch import scheduler_fields
from ..schedules.torch_schedule import TorchCurve, TorchSchedule
from ..scheduling.optimizer import ScheduledOptimizer
from ..types import ParamGroup
from .base import OPTIMIZER_BUILDER_REGISTRY
from .torch_optim import NOT_OPTIONS, OPTION_MEANINGS, TorchFactory

STEPPED = 10_000
"""Steps of a class of another library that are tried when it is built, and looked at for warnings: some 0.1 s."""


class ImportedFactory(TorchFactory):
    """Base of the factories of classes that are named by their dotted path."""

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the optimizer class: those that are not its own defaults, and the lr."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in self.option_names()}
        return {name: value for name, value in given.items() if name == "lr" or value != fields[name].default}

    @model_validator(mode="after")
    def _check_lr(self) -> Self:
        if self.options()["lr"] is None:
            self.refuse("lr", "give one: the class leaves it out, and a schedule needs a number to go by")
        return self

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        by_name = next(iter(inspect.signature(self.optimizer_class).parameters)).startswith("named")
        try:
            return (
                _with_names(super()._make(_named(groups), options), groups)
                if by_name
                else super()._make(groups, options)
            )
        except ValueError:
            raise
        except Exception as error:  # a library's class may raise anything
            path = OPTIMIZER_BUILDER_REGISTRY.key_of(type(self))
            raise ValueError(
                f"{path} cannot be built over these parameters: {type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> Any:
        return _factory_again, (OPTIMIZER_BUILDER_REGISTRY.key_of(type(self)), self.model_dump())


class ImportedSchedule(TorchSchedule):
    """Base of the schedules of classes that are named by their dotted path."""

    def resolved(self, horizon: Horizon | None) -> Self:
        schedule = super().resolved(horizon)
        if horizon is not None:  # a class of any library may know an end, and raise there
            last = (horizon.total_steps - 1) // schedule.step_length()
            run = TorchCurve(schedule)
            for step in range(min(last + 1, STEPPED)):
                try:
                    run.lr_at(step)
                except Exception as error:
                    rule = f"{self.scheduler_class.__name__} fails at its step {step} of {last + 1} in the run: {error}"
                    raise refusal(rule) from error
        return schedule

    def quick_reach(self) -> int | None:
        return STEPPED * self.step_length()

    def __reduce__(self) -> Any:
        return _schedule_again, (SCHEDULE_REGISTRY.key_of(type(self)), self.model_dump())


_AVERAGING: dict[Any, str] = {
    AdamWScheduleFree: "schedule_free_adamw",
    RAdamScheduleFree: "schedule_free_radam",
    SGDScheduleFree: "schedule_free_sgd",
}


def imported_factory(path: str, optimizer_class: type[Optimizer]) -> type[ImportedFactory]:
    """Return a factory of `optimizer_class`, an optimizer of any library, with its arguments as fields.

    A class of the schedulefree library is the key's that averages without leaving a trace.
    Raises ValueError if it has no lr, or an argument by the name of a field that all factories have.
    """
    if optimizer_class in _AVERAGING:
        return OPTIMIZER_BUILDER_REGISTRY[_AVERAGING[optimizer_class]]  # type: ignore[return-value]  # it is a factory too
    first, *parameters = inspect.signature(optimizer_class).parameters.values()
    if first.name in ("model", "module"):
        raise ValueError(
            f"it takes a model (its first argument is {first.name!r}) and updates it in its own way, and not by step()"
        )
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
            fields[name] = (_validatable(types[name]), Field(default, description=meaning))
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


def imported_schedule(path: str, scheduler_class: type[LRScheduler]) -> type[Schedule]:
    """Return a schedule that runs `scheduler_class`, a scheduler of any library, with its arguments as fields.

    A class of PyTorch's is the schedule that goes by its name.
    """
    if scheduler_class.__module__.startswith("torch.optim."):
        return SCHEDULE_REGISTRY[scheduler_class.__name__]
    fields = scheduler_fields(scheduler_class)
    made = create_model(scheduler_class.__name__, __base__=ImportedSchedule, __module__=__name__, **fields)
    made.__doc__ = f"{path}, run as its own object."
    made.scheduler_class = scheduler_class
    return made


def _validatable(annotation: Any) -> Any:
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:  # a library's own type
        return Any
    return annotation


def _named(groups: list[ParamGroup]) -> Any:
    """Return the parameters of the only group with their names, for a class that takes these and no groups."""
    if len(groups) > 1 or groups[0].keys() != {"params"} or not all(isinstance(p, tuple) for p in groups[0]["params"]):
        raise ValueError("it takes named parameters and no groups: build it from a module, without rules by name")
    return groups[0]["params"]


def _with_names(optimizer: ScheduledOptimizer, groups: list[ParamGroup]) -> ScheduledOptimizer:
    """Return `optimizer`, whose class made groups of named parameters, with the names where torch has them."""
    names = {parameter: name for name, parameter in groups[0]["params"]}
    for group in optimizer.param_groups:
        group.setdefault("param_names", [names[parameter] for parameter in group["params"]])
    return optimizer


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or (isinstance(value, bool | int | float | str) and value not in (math.inf, -math.inf))


def _factory_again(path: str, fields: dict[str, Any]) -> Any:
    return OPTIMIZER_BUILDER_REGISTRY[path](**fields)


def _schedule_again(path: str, fields: dict[str, Any]) -> Any:
    return SCHEDULE_REGISTRY[path](**fields)


OPTIMIZER_BUILDER_REGISTRY.adapt(Optimizer, imported_factory)
SCHEDULE_REGISTRY.adapt(LRScheduler, imported_schedule)
