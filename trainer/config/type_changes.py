"""An override of a `type`: the fields of the other type are dropped."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimizer import Registry
from optimizer.config import TaggedField, shown

from .kinds import PARAMS, TYPE, arguments_of, names_of, registered_class, registry_of
from .override_fields import FieldsOf
from .presets import PRESET


def with_types_changed(
    config: Mapping[str, Any], overrides: Mapping[str, object], fields: FieldsOf
) -> tuple[Mapping[str, Any], list[str]]:
    """Return a config in which overrides of a `type` are set, without fields that the new type does not have.

    Fields of the same name are kept: they have the same meaning for most optimizers. `preset` keeps none, as it would
    let them win over the recommended ones.

    Args:
        config: The plain values of the config.
        overrides: Values by dotted key. Fields that they set are not mentioned.
        fields: The fields of the config.

    Returns:
        The config, a copy if anything changes, and a line for each entry that changes.
    """
    changing = [key for key, value in overrides.items() if key.rpartition(".")[2] == TYPE and isinstance(value, str)]
    if not changing:
        return config, []
    lines: list[str] = []
    copied = copy.deepcopy(dict(config))
    for key in changing:
        path = key.split(".")[:-1]
        entry = _entry_at(copied, path)
        old, new = None if entry is None else entry.get(TYPE), str(overrides[key])
        if entry is None or not isinstance(old, str) or old == new:
            continue
        entry[TYPE] = new
        for kind in fields.kinds_at(copied, path):
            lines += _dropped(entry, kind, old, path, overrides)
    return copied, lines


def _entry_at(config: dict[str, Any], path: Sequence[str]) -> dict[str, Any] | None:
    place: object = config
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _dropped(
    entry: dict[str, Any], kind: object, old: str, path: Sequence[str], overrides: Mapping[str, object]
) -> Iterator[str]:
    """Drop the fields of `entry` that its new type does not have, and yield the line about them."""
    registry: Registry[Any] | None = kind.registry if isinstance(kind, TaggedField) else registry_of(kind)
    if registry is None:
        return
    place = list(path) if isinstance(kind, TaggedField) else [*path, PARAMS]
    params = entry if isinstance(kind, TaggedField) else entry.get(PARAMS)
    known = _known_names(registry, entry)
    if not isinstance(params, dict) or known is None:
        return
    dotted = ".".join(place)
    names = [name for name in params if name != TYPE and not _is_set(f"{dotted}.{name}", overrides)]
    dropped = [name for name in names if name not in known]
    kept = [name for name in names if name in known]
    for name in dropped:
        del params[name]
    what = [f"{', '.join(map(shown, some))} {verb}" for some, verb in ((dropped, "dropped"), (kept, "kept")) if some]
    if what:
        yield f"{dotted}: type changed from {shown(old)} to {shown(entry[TYPE])}: {'; '.join(what)}"


def _known_names(registry: Registry[Any], entry: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the fields of an entry's type; None if there is no such type."""
    if entry[TYPE] == PRESET:
        return []
    cls = registered_class(registry, entry)
    return None if cls is None else [name for model in arguments_of(cls) for name in names_of(model)]


def _is_set(key: str, overrides: Mapping[str, object]) -> bool:
    return any(other == key or other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in overrides)
