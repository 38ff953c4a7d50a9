"""Functions in a config: by dotted path, my_pkg.module.function."""

import importlib
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator


def function_named(path: str) -> Callable[..., Any]:
    """Return the function at a dotted path. Raises ValueError."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}. Give the dotted path of a function") from error
    if not callable(function):
        raise ValueError(f"{path!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]  # callable, as was just seen


def _path(value: Any) -> str:
    if callable(value):
        value = f"{value.__module__}.{value.__qualname__}"
    if not isinstance(value, str):
        raise ValueError("must be the dotted path of a function, my_pkg.module.function")
    if "<" in value:
        raise ValueError("must be a function at the top of a module: a lambda or an inner function has no path")
    function_named(value)
    return value


NamedFunction = Annotated[str, BeforeValidator(_path)]
