"""The types of a torch class's arguments, as a config has them: numbers, text and lists, without tensors."""

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.optim import Optimizer

from .fields import Number, Whole

Annotation: TypeAlias = Any
"""A type as it stands in an annotation: a class, a union, a generic alias, or an Annotated of one."""

_TYPING_ONLY_NAMES: dict[str, Annotation] = {
    "Any": Annotation,
    "Callable": Callable,
    "Iterable": Iterable,
    "Literal": Literal,
    "Optimizer": Optimizer,
    "Sequence": Sequence,
}
"""Names in annotations written as text that a class's own module may import for type checkers only."""


def plain_types(cls: type[Any]) -> dict[str, Annotation]:
    """Return the type of each named argument of `cls`, from its annotation, else from its default."""
    try:
        hints = get_type_hints(cls.__init__, localns=_TYPING_ONLY_NAMES)
    except Exception:  # annotations are code, which may raise anything
        hints = {}
    types_by_name = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = plain_type(hints[name]) if name in hints else _type_of_default(parameter.default)
        types_by_name[name] = kind | None if parameter.default is None else kind  # `x: float = None` means it too
    return types_by_name


def plain_type(annotation: Annotation) -> Annotation:
    """Return the type that a config has for an argument of PyTorch's.

    Numbers are not booleans, tensors and lists in unions are left out (a config has one value for all parameter
    groups), and an iterable is a list.
    """
    if annotation in (float, int):
        return Number if annotation is float else Whole
    origin: object = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in (Union, types.UnionType):
        kept = [
            plain_type(argument)
            for argument in arguments
            if argument is not Tensor and get_origin(argument) is not list
        ]
        return Union[tuple(kept)]  # noqa: UP007 the members are known at run time only
    if origin is tuple:
        return tuple[tuple(plain_type(argument) for argument in arguments)]  # type: ignore[misc]  # at run time only
    return list[plain_type(arguments[0])] if origin is Iterable else annotation  # type: ignore[misc]  # at run time only


def _type_of_default(default: object) -> Annotation:
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return Number  # weight_decay=0 also takes 0.5
    if isinstance(default, tuple):
        return tuple[tuple(_type_of_default(item) for item in default)]  # type: ignore[misc]  # at run time only
    return Annotation
