"""Optimizers of other libraries by dotted path, checked against the class's signature."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Self

from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, create_model, model_validator
from schedulefree.adamw_schedulefree import AdamWScheduleFree
from schedulefree.radam_schedulefree import RAdamScheduleFree
from schedulefree.sgd_schedulefree import SGDScheduleFree
from torch.optim import Optimizer

from ..config.fields import FieldDefinitions
from ..config.signatures import Annotation, plain_types
from ..scheduling.optimizer import ScheduledOptimizer
from ..types import Options, ParamGroup
from .base import OPTIMIZER_BUILDER_REGISTRY
from .torch_optim import NOT_OPTIONS, OPTION_MEANINGS, TorchFactory, summary_of

Rebuilt = tuple[Callable[[str, dict[str, object]], object], tuple[str, dict[str, object]]]
"""The function that pickle calls to build an object again, and its arguments."""


class ImportedFactory(TorchFactory):
    """Base of the factories of classes that are named by their dotted path."""

    def options(self) -> Options:
        """Return the keyword arguments for the optimizer class: those that differ from its defaults, and the lr."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in self.option_names()}
        return {name: value for name, value in given.items() if name == "lr" or value != fields[name].default}

    @model_validator(mode="after")
    def _check_lr(self) -> Self:
        if self.options()["lr"] is None:
            self.refuse("lr", "give a number, which a schedule needs: the class has no default")
        return self

    def _make(self, groups: list[ParamGroup], options: Options) -> ScheduledOptimizer:
        by_name = next(iter(inspect.signature(self.optimizer_class).parameters)).startswith("named")
        try:
            if not by_name:
                return super()._make(groups, options)
            return _name_groups(super()._make(_named_parameters(groups), options), groups)
        except ValueError:
            raise
        except Exception as error:  # a library's class may raise anything
            path = OPTIMIZER_BUILDER_REGISTRY.key_of(type(self))
            raise ValueError(
                f"{path} cannot be built over these parameters: {type(error).__name__}: {error}"
            ) from error

    def __reduce__(self) -> Rebuilt:
        return _rebuild_factory, (OPTIMIZER_BUILDER_REGISTRY.key_of(type(self)), self.model_dump())


_AVERAGING: dict[type[Optimizer], str] = {
    AdamWScheduleFree: "schedule_free_adamw",
    RAdamScheduleFree: "schedule_free_radam",
    SGDScheduleFree: "schedule_free_sgd",
}


def imported_factory(path: str, optimizer_class: type[Optimizer]) -> type[ImportedFactory]:
    """Return a factory of `optimizer_class`, an optimizer of any library, with its arguments as fields.

    A class of the schedulefree library has the factory of its key, which evaluates without an effect on training.

    Raises:
        ValueError: The class has no lr, takes a model, or has an argument with the name of a field of all factories.
    """
    if optimizer_class in _AVERAGING:
        return OPTIMIZER_BUILDER_REGISTRY[_AVERAGING[optimizer_class]]  # type: ignore[return-value]  # of its key, and not an ImportedFactory
    first, *parameters = inspect.signature(optimizer_class).parameters.values()
    if first.name in ("model", "module"):
        raise ValueError(
            f"it takes a model (its first argument is {first.name!r}), which it updates in another way than by step()"
        )
    types = plain_types(optimizer_class)
    fields: FieldDefinitions = {}
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
            fields[name] = (Annotation, Field(None, description=f"{meaning} Left out, the class's own default."))
    if "lr" not in fields:
        raise ValueError("it has no argument lr for a schedule to change")
    factory = create_model(optimizer_class.__name__, __base__=ImportedFactory, __module__=__name__, **fields)
    factory.__doc__ = f"{path}: {summary_of(optimizer_class)}"
    factory.optimizer_class = optimizer_class
    return factory


def _validatable(annotation: Annotation) -> Annotation:
    """Return `annotation`, or one that allows everything in place of one that pydantic cannot validate."""
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:  # a library's own type
        return Annotation
    return annotation


def _named_parameters(groups: list[ParamGroup]) -> Any:
    """Return the named parameters of the only group, for a class that takes these in place of groups."""
    if len(groups) > 1 or groups[0].keys() != {"params"} or not all(isinstance(p, tuple) for p in groups[0]["params"]):
        raise ValueError("it takes named parameters and no groups: build it from a module, without rules by name")
    return groups[0]["params"]


def _name_groups(optimizer: ScheduledOptimizer, groups: list[ParamGroup]) -> ScheduledOptimizer:
    """Return `optimizer` with the parameters' names in its groups, where torch has them."""
    names = {parameter: name for name, parameter in groups[0]["params"]}
    for group in optimizer.param_groups:
        group.setdefault("param_names", [names[parameter] for parameter in group["params"]])
    return optimizer


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or (isinstance(value, bool | int | float | str) and value not in (math.inf, -math.inf))


def _rebuild_factory(path: str, fields: dict[str, object]) -> object:
    return OPTIMIZER_BUILDER_REGISTRY[path](**fields)


OPTIMIZER_BUILDER_REGISTRY.adapt(Optimizer, imported_factory)
