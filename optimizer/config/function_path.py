"""Functions in a config: by dotted path, my_pkg.module.function."""

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator

from .importing import NotImportedError, object_at


def function_at(path: str) -> Callable[..., object]:
    """Return the function at a dotted path.

    Raises:
        ValueError: `path` is not a dotted path, cannot be imported, or does not lead to a function.
    """
    if "." not in path:
        raise ValueError(f"must be the dotted path of a function, my_pkg.module.function; got {path!r}")
    try:
        function = object_at(path)
    except NotImportedError as error:
        raise ValueError(f"{path!r}: {error}") from error
    if not callable(function):
        raise ValueError(f"{path!r} is a {type(function).__name__}, not a function")
    return function


def _read_path(value: object) -> str:
    if callable(value):
        value = f"{value.__module__}.{getattr(value, '__qualname__', '<instance>')}"
    if not isinstance(value, str):
        raise ValueError("must be the dotted path of a function, my_pkg.module.function")
    if "<" in value:
        raise ValueError("must be a function at the top of a module: a lambda or an inner function has no path")
    function_at(value)
    return value


FunctionPath = Annotated[str, BeforeValidator(_read_path)]
"""A field for the dotted path of a function. It also takes the function itself."""
