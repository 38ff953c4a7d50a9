"""The arguments of a class of somebody else's as a config has them: names, plain types, defaults."""

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.optim import Optimizer

from .validation import Number, Whole

_NAMES = {
    "Any": Any,
    "Callable": Callable,
    "Iterable": Iterable,
    "Literal": Literal,
    "Optimizer": Optimizer,
    "Sequence": Sequence,
}
"""What annotations written as text may mean that the class's own module imports for type checkers only."""


def plain_types(cls: type[Any]) -> dict[str, Any]:
    """Return the type of each named argument of `cls`: as annotated, else as the default has it."""
    try:
        hints = get_type_hints(cls.__init__, localns=_NAMES)
    except Exception:  # annotations are code, which may raise anything
        hints = {}
    types_by_name = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = plain_type(hints[name]) if name in hints else _type_of_default(parameter.default)
        types_by_name[name] = kind | None if parameter.default is None else kind  # `x: float = None` means it too
    return types_by_name


def plain_type(annotation: Any) -> Any:
    """Return a PyTorch argument's type as a config has it: numbers that are no booleans, one for all
    parameter groups, and no tensors."""
    if annotation in (float, int):
        return Number if annotation is float else Whole
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        kept = [
            plain_type(argument)
            for argument in arguments
            if argument is not Tensor and get_origin(argument) is not list
        ]
        return Union[tuple(kept)]  # noqa: UP007 the members are known at run time only
    if origin is tuple:
        return tuple[tuple(plain_type(argument) for argument in arguments)]  # type: ignore[misc]  # at run time only
    return list[plain_type(arguments[0])] if origin is Iterable else annotation  # type: ignore[misc]  # likewise


def _type_of_default(default: Any) -> Any:
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return Number  # a weight_decay=0 is no whole number
    if isinstance(default, tuple):
        return tuple[tuple(_type_of_default(item) for item in default)]  # type: ignore[misc]  # at run time only
    return Any
