"""Overrides from the command line, `--dotted.key=value`, and how they are put into a config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from optimizer.config import counted, shown, shown_value

from ..errors import ConfigError
from .places import Path, Place, Places
from .plain_values import Plain, plain
from .yaml_values import read_yaml

_WITHOUT_SPACE = re.compile(r""" (?<=[\s{[,:])(?:"(?:[^"\\]|\\.)*" | '[^']*') | ([{,]\s*[\w.]+):(?=\S)""", re.VERBOSE)
"""Text in quotes, or else a key with its colon and the value right after it."""
APPEND = "+"
"""The end of a key whose values are added to a list: `--plugins+=my_parts`."""


class Typed(str):
    """A value as it was typed on the command line. Its meaning depends on the field that it is for."""


class Bare(Typed):
    """The value of an override without one, `--train.compile`: true, if the field is a switch."""


class Added(NamedTuple):
    """Values that are added to a list, in their order."""

    values: tuple[object, ...]


class Fields(Protocol):
    """Knows how the fields of a config take text."""

    def takes_text(self, config: Mapping[str, object], path: Sequence[str], text: str) -> bool:
        """Return whether the field that `path` leads to in `config` takes `text` as it was typed."""
        ...

    def is_switch(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field may be true."""
        ...

    def takes_items(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field takes a list of text, and no text."""
        ...

    def default_at(self, config: Mapping[str, object], path: Sequence[str]) -> object:
        """Return the plain default of the field; None if it has none."""
        ...

    def may_take_path(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field takes the path of a file, or is not known."""
        ...


def parse_overrides(arguments: Sequence[str]) -> dict[str, object]:
    """Return the overrides in `--key=value`, `--key value`, `--key` and `--key+=value` arguments by dotted key.

    Raises:
        ConfigError: An argument has another form.
    """
    overrides: dict[str, object] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        key, separator, text = argument.removeprefix("--").partition("=")
        parts = key.removesuffix(APPEND).split(".")
        if not argument.startswith("--") or parts == [""]:
            raise ConfigError(other_form(argument))
        if "" in parts:
            raise ConfigError(f"--{shown(key)}: a name is missing before, after or between the dots")
        if separator:
            value = Typed(text)
        elif remaining and not remaining[0].startswith("--"):
            value = Typed(remaining.pop(0))
        else:
            value = Bare("true")
        if key.endswith(APPEND):
            earlier = overrides.get(key)
            overrides[key] = Added((*earlier.values, value) if isinstance(earlier, Added) else (value,))
        else:
            overrides[key] = value
    return overrides


def other_form(argument: str) -> str:
    """Return the message about an argument that is not an override; also if another tool would take it as one."""
    bare = argument.lstrip("-+~")
    meant = ""
    if "=" in bare[1:]:
        meant = f"; did you mean --{bare[:200]}?"
    elif argument.startswith("~") and bare:
        meant = f"; to unset a value, write --{bare[:200]}=null"
    return f"{argument[:200]}: not understood; an override is --dotted.key=value{meant}"


def places_with(places: Places, overrides: Mapping[str, object]) -> dict[Path, Place]:
    """Return the places of a config's values once the overrides are set. Those from Python have none to name."""
    result = dict(places)
    for key, value in overrides.items():
        path = tuple(key.removesuffix(APPEND).split("."))
        if not key.endswith(APPEND):
            for inner in [inner for inner in result if inner[: len(path)] == path]:
                del result[inner]
        is_typed = isinstance(value, Typed | Added)
        result[path] = Place(f"--{key}" if is_typed else "")
    return result


def apply_overrides(
    config: Mapping[str, object], overrides: Mapping[str, object], fields: Fields | None = None
) -> dict[str, Any]:
    """Return a plain copy of `config` with each dotted key set.

    Args:
        config: A config, whose values may be numpy's and torch's scalars, paths and tuples too.
        overrides: Values by dotted key, in which an item of a list goes by its index. A key that ends in + adds to a
            list. A `Typed` value is read as YAML unless its field takes text.
        fields: The fields; None: each value is read as YAML.

    Raises:
        ConfigError: A key leads into a value, or a value is not plain.
    """
    try:
        result = _plain_mapping(config)
        if not overrides:
            return result
        for key, value in overrides.items():
            if not key.endswith(APPEND):
                container, last = _container(result, key)
                _set(container, last, value if isinstance(value, Typed) else plain(value, key))
        for key in overrides:
            if not key.endswith(APPEND):
                container, last = _container(result, key)
                text = _get(container, last)
                if isinstance(text, Typed):
                    _set(container, last, _value(result, key, text, fields))
        for key, value in overrides.items():
            if key.endswith(APPEND):
                _add(result, key.removesuffix(APPEND), value, fields)
        return _plain_mapping(result)  # all together may be too many values
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _plain_mapping(config: Mapping[str, object]) -> dict[str, Plain]:
    mapping = plain(config)
    assert isinstance(mapping, dict), "a copy of a mapping is one"
    return mapping


_Container: TypeAlias = dict[str, Plain] | list[Plain]


def _container(config: dict[str, Plain], key: str) -> tuple[_Container, str]:
    """Return the mapping or list in `config` that `key` leads to, made if it is not there, and the last part of it."""
    *parents, last = key.split(".")
    container: _Container = config
    for depth, parent in enumerate(parents):
        path = ".".join(parents[: depth + 1])
        _check_index(container, parent, key, ".".join(parents[:depth]))
        inner = _get(container, parent)
        if isinstance(inner, Typed):
            inner = _read(path, inner)
        if inner is None:
            inner = {}
        if not isinstance(inner, dict | list):
            raise ValueError(f"--{key}: {path} is {shown_value(inner)}, which has no fields")
        _set(container, parent, inner)
        container = inner
    _check_index(container, last, key, ".".join(parents))
    return container, last


def _check_index(container: _Container, part: str, key: str, path: str) -> None:
    if isinstance(container, list) and part not in map(str, range(len(container))):
        known = f"0 to {len(container) - 1}" if container else "none"
        raise ValueError(
            f"--{key}: {path} is a list of {counted(len(container), 'item')}, and has no item {shown(part)} ({known})."
            f" Add one with --{path}+=VALUE, or set the list as a whole"
        )


def _get(container: _Container, part: str) -> Plain:
    return container[int(part)] if isinstance(container, list) else container.get(part)


def _set(container: _Container, part: str, value: Plain) -> None:
    if isinstance(container, list):
        container[int(part)] = value
    else:
        container[part] = value


def _add(config: dict[str, Plain], key: str, value: object, fields: Fields | None) -> None:
    """Add values to the list that `key` leads to, which is the field's default if it is not there."""
    container, last = _container(config, key)
    is_there = isinstance(container, list) or last in container
    path = key.split(".")
    current = _get(container, last)
    if not is_there and fields is not None:
        current = plain(fields.default_at(config, path), key)
    if isinstance(current, str):
        current = [current]
    if not isinstance(current, list | None):
        what = "a mapping" if isinstance(current, dict) else shown_value(current)
        raise ValueError(f"--{key}{APPEND}: {key} is {what}, and not a list. Set it with --{key}=VALUE")
    items = list(current or [])
    for one in value.values if isinstance(value, Added) else (value,):
        read = _value(config, key, one, fields) if isinstance(one, Typed) else plain(one, key)
        items += read if isinstance(read, list) else [read]
    _set(container, last, items)


def _value(config: Mapping[str, Plain], key: str, text: Typed, fields: Fields | None) -> Plain:
    """Return the value that a field takes from `text`."""
    path = key.split(".")
    if isinstance(text, Bare):
        if fields is not None and not fields.is_switch(config, path):
            raise ValueError(f"--{key}: no value; write --{key}=VALUE")
        return True
    try:
        return meaning_of(text, config, path, fields)
    except ValueError as error:
        raise _not_yaml(key, text, error) from error


def meaning_of(text: str, config: Mapping[str, Plain], path: Sequence[str], fields: Fields | None) -> Plain:
    """Return the value that the field at `path` of a config takes from text of a command line or of the environment.

    Raises:
        ValueError: The field takes no text, and `text` is not YAML.
    """
    if fields is not None and fields.takes_text(config, path, text):
        return str(text)
    value = _read_text(text)
    if isinstance(value, str) and fields is not None and fields.takes_items(config, path):
        return [str(text)]
    return value


def _read(key: str, text: str) -> Plain:
    try:
        return _read_text(text)
    except ValueError as error:
        raise _not_yaml(key, text, error) from error


def _not_yaml(key: str, text: str, error: ValueError) -> ValueError:
    return ValueError(f"--{key}: {text[:80]!r} is not a YAML value: {error}")


def _read_text(text: str) -> Plain:
    """Return the value of `text` as YAML, or in two forms that other tools' command lines take."""
    written = text
    if re.fullmatch(r"\(.*\)", text):  # a Python tuple
        written = f"[{text[1:-1]}]"
    if text.startswith("{"):  # YAML needs a space after the colon of {momentum:0.9}
        written = _WITHOUT_SPACE.sub(lambda found: f"{found[1]}: " if found[1] else found[0], text)
    return read_yaml(written)
