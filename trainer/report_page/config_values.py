"""The values of a run's config: those that differ from the defaults, and from the configs of other runs."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from optimizer import no_plugins

from ..config.class_choice import ClassChoice
from ..config.marks import find_section
from ..config.schema import ExperimentConfig

_MISSING = "—"
_MOST_ROWS = 400
"""Rows of a table at most."""
_LONGEST = 300
"""Characters of a value in a table."""
_OWN = ("train.run_dir",)
"""Fields that differ between any two runs."""


def changed_fields(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return path, value and default of each value in a config that is not its default. No module is imported.

    A class that innerstep does not have has unknown defaults, as has a field without one: all of these are listed.
    """
    with no_plugins():
        defaults = _flat(_defaults(ExperimentConfig, values))
    given = _flat(values)
    changed = [
        (path, _text(value), _text(defaults[path]) if path in defaults else _MISSING)
        for path, value in given.items()
        if (path not in defaults and value != {}) or not _same(value, defaults.get(path, value))
    ]
    return changed[:_MOST_ROWS]


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the path and the value in each config of each field in which the configs differ."""
    flat = [_flat(config) for config in configs]
    paths = dict.fromkeys(path for config in flat for path in config if path not in _OWN)
    rows = []
    for path in paths:
        found = [config.get(path, _MISSING) for config in flat]
        if any(not _same(found[0], other) for other in found[1:]):
            rows.append((path, [value if value is _MISSING else _text(value) for value in found]))
    return rows[:_MOST_ROWS]


def _flat(value: object, path: str = "") -> dict[str, Any]:
    """Return the values by dotted path. An empty mapping is a value."""
    if not isinstance(value, Mapping) or not value:
        return {path: value} if path else {}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{path}.{name}" if path else str(name))
    return found


def _defaults(model: type[BaseModel], values: object) -> dict[str, Any]:
    """Return the defaults of a config's fields, and of those in its sections, as far as they are known."""
    found = model.model_construct().model_dump(mode="json", warnings=False)
    for name, given in values.items() if isinstance(values, Mapping) else ():
        section = find_section(model, name) if name in model.model_fields else None
        if section is None or not isinstance(given, Mapping):
            continue
        one, several = section.model, section.several
        inner = {key: _defaults(one, value) for key, value in given.items()} if several else _defaults(one, given)
        if inner != given or found.get(name, inner) is not None:  # one that is usually off is listed when it is on
            found[name] = inner
    if issubclass(model, ClassChoice):
        found["params"] = _defaults_of_class(model, values)
    return found


def _defaults_of_class(choice: type[ClassChoice], values: object) -> dict[str, Any]:
    """Return the defaults of the parameters of the class that `type` names, if it is one of innerstep's."""
    key = values.get("type") if isinstance(values, Mapping) else None
    if not isinstance(key, str) or "." in key:  # a dotted path, or a family of another library's classes
        return {}
    try:
        cls = choice.registry[key]
    except LookupError:
        return {}
    if issubclass(cls, BaseModel):
        return cls.model_construct().model_dump(mode="json", warnings=False)
    parameters = inspect.signature(cls).parameters.values()
    named = {one.name: one.default for one in parameters if one.default is not one.empty}
    plain: dict[str, Any] = to_jsonable_python(named, fallback=str)
    return plain


def _same(one: object, other: object) -> bool:
    """Return whether two plain values are equal; 1 equals 1.0, and does not equal true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
