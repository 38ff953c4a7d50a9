"""Functions in a config: by dotted path, my_pkg.module.function."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from .importing import NotImportedError, object_at


def function_named(path: str) -> Callable[..., Any]:
    """Return the function at a dotted path. Raises ValueError."""
    if "." not in path:
        raise ValueError(f"must be the dotted path of a function, my_pkg.module.function; got {path!r}")
    try:
        function = object_at(path)
    except NotImportedError as error:
        raise ValueError(f"{path!r}: {error}") from error
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
