"""Paths in a config, by the fields that take one: relative ones are made absolute, and parameters become paths."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel

from optimizer.config import refusal

from ..runtime.hub import is_reference
from .kinds import arguments_of, kinds_inside
from .paths import as_text, expand
from .places import Path


def with_absolute_paths(
    config: Mapping[str, Any], model: type[BaseModel], folder_of: Callable[[Path], FilePath | None]
) -> dict[str, Any]:
    """Return a config in which each path is absolute, with `~` and `$NAME` filled in.

    What cannot be filled in stays as it is: its error is reported where it is validated.

    Args:
        config: Plain values.
        model: The class of the config, whose fields know which values are paths.
        folder_of: Returns the folder in which a relative path starts, by the path of the value in the config; None: it
            stays relative.
    """

    def absolute(place: Path, text: str) -> str:
        try:
            path = expand(text)
            if not os.path.isabs(path):
                folder = folder_of(place)
                if folder is None:
                    return text
                path = absolute_path(folder, path)
        except (ValueError, OSError):  # also of a working directory that was deleted
            return text
        return as_text(FilePath(path))

    changed: dict[str, Any] = _with_paths(config, [model], (), absolute)
    return changed


def path_parameters(cls: type, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a class with a `Path` for text in each one that is annotated so.

    Raises:
        ValidationError: A path is empty, or a variable in it is not set.
    """

    def read(place: Path, text: str) -> FilePath:
        try:
            return FilePath(expand(text))
        except ValueError as error:
            raise refusal(str(error), place, text) from None

    changed: dict[str, Any] = _with_paths(params, arguments_of(cls), (), read)
    return changed


def _with_paths(value: Any, kinds: Iterable[object], place: Path, change: Callable[[Path, str], object]) -> Any:
    """Return a copy of `value` with each path in it replaced by `change(place, text)`."""
    kinds = list(kinds)
    if isinstance(value, str):
        takes_path = any(map(is_path, kinds)) and value != "" and not is_reference(value)
        return change(place, value) if takes_path else value
    if not kinds or not isinstance(value, dict | list):
        return value
    items = value.items() if isinstance(value, dict) else ((str(index), item) for index, item in enumerate(value))
    changed = {
        key: _with_paths(
            item, [kind for outer in kinds for kind in kinds_inside(outer, key, value)], (*place, key), change
        )
        if isinstance(item, str | dict | list)
        else item
        for key, item in items
    }
    return changed if isinstance(value, dict) else list(changed.values())


def is_path(kind: object) -> bool:
    """Return whether text of a field is a path: also that of `init_from`, which is one with :COMPONENT at its end."""
    return isinstance(kind, type) and (issubclass(kind, os.PathLike) or getattr(kind, "from_text", False) is True)


def absolute_path(folder: FilePath, path: str) -> str:
    """Return a path in a folder, without `..` where that leads to the same place."""
    joined = os.path.join(folder, path)
    plain = os.path.normpath(joined)
    return plain if os.path.realpath(plain) == os.path.realpath(joined) else joined
