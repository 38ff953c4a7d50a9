"""Numbers in fields for text: a run directory called 20261125_1200 keeps its name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .places import Path, Places

TakesText = Callable[[Mapping[str, object], Sequence[str], str], bool]
"""Returns whether the field at a path of a config takes text as it is written."""


def with_written_text(config: dict[str, Any], places: Places, takes_text: TakesText) -> dict[str, Any]:
    """Return `config`, changed in place: where a field takes text, a number becomes the text that is written.

    Args:
        config: Plain values.
        places: Where they stand.
        takes_text: Which fields take text.
    """
    for path, place in places.items():
        if place.written is None or not takes_text(config, path, place.written):
            continue
        container, key = _container(config, path)
        if isinstance(container, dict) and _is_number(container.get(key)):
            container[key] = place.written
        elif isinstance(container, list) and int(key) < len(container) and _is_number(container[int(key)]):
            container[int(key)] = place.written
    return config


def _container(config: dict[str, Any], path: Path) -> tuple[object, str]:
    """Return the mapping or list that holds the value at `path`, and its key; None if the path leads to no value."""
    container: object = config
    for part in path[:-1]:
        if isinstance(container, dict):
            container = container.get(part)
        elif isinstance(container, list) and part.isdecimal() and int(part) < len(container):
            container = container[int(part)]
        else:
            return None, ""
    return container, path[-1] if path else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
