"""Overrides from the command line, `--dotted.key=value`, and how they are put into a config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from optimizer.config import shown_value

from ..errors import ConfigError
from .plain_values import Plain, plain
from .yaml_values import read_yaml

_WITHOUT_SPACE = re.compile(r""" (?<=[\s{[,:])(?:"(?:[^"\\]|\\.)*" | '[^']*') | ([{,]\s*[\w.]+):(?=\S)""", re.VERBOSE)
"""Text in quotes, or else a key with its colon and the value right after it."""


class Typed(str):
    """A value as it was typed on the command line. Its meaning depends on the field that it is for."""


class TakesText(Protocol):
    """Decides which fields take text exactly as it was typed."""

    def __call__(self, config: Mapping[str, Any], path: Sequence[str], text: str) -> bool:
        """Return whether the field that `path` leads to in `config` takes `text` as it was typed."""
        ...


def parse_overrides(arguments: Sequence[str]) -> dict[str, Typed]:
    """Return the overrides in `--key=value` and `--key value` arguments by dotted key.

    Raises:
        ConfigError: An argument has another form.
    """
    overrides: dict[str, Typed] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        key, separator, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            meant = f"; did you mean --{argument.lstrip('-')}?" if "=" in argument.lstrip("-")[1:] else ""
            raise ConfigError(f"{argument[:200]}: not understood; an override is --dotted.key=value{meant}")
        if not separator:
            if not remaining or remaining[0].startswith("--"):
                raise ConfigError(f"{argument[:200]}: no value; write {argument[:200]}=VALUE")
            text = remaining.pop(0)
        overrides[key] = Typed(text)
    return overrides


def apply_overrides(
    config: Mapping[str, object], overrides: Mapping[str, object], takes_text: TakesText | None = None
) -> dict[str, Any]:
    """Return a plain copy of `config` with each dotted key set.

    Args:
        config: A config, whose values may be numpy's and torch's scalars, paths and tuples too.
        overrides: Values by dotted key; a `Typed` one is read as YAML unless its field takes text.
        takes_text: Which fields take text; None: no field.

    Raises:
        ConfigError: A key leads into a value, or a value is not plain.
    """
    try:
        result: dict[str, Any] = _plain_mapping(config)
        if not overrides:
            return result
        for key, value in overrides.items():
            place, last = _place(result, key)
            place[last] = value if isinstance(value, Typed) else plain(value, key)
        for key in overrides:
            place, last = _place(result, key)
            text = place.get(last)
            if isinstance(text, Typed):
                is_text = takes_text is not None and takes_text(result, key.split("."), text)
                place[last] = str(text) if is_text else _read(key, text)
        return _plain_mapping(result)  # all together may be too many values
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _plain_mapping(config: Mapping[str, object]) -> dict[str, Plain]:
    mapping = plain(config)
    assert isinstance(mapping, dict), "a copy of a mapping is one"
    return mapping


def _place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the mapping in `config` that `key` leads to, made if it is not there, and the last name of `key`."""
    *parents, last = key.split(".")
    place: Any = config
    for depth, parent in enumerate(parents):
        if isinstance(place.get(parent), Typed):
            place[parent] = _read(".".join(parents[: depth + 1]), place[parent])
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            remedy = ". Override the list as a whole" if isinstance(place, list) else ""
            found = f"{'.'.join(parents[: depth + 1])} is {shown_value(place)}"
            raise ValueError(f"--{key}: {found}, which has no fields{remedy}")
    return place, last


def _read(key: str, text: str) -> Plain:
    """Return the value of `text` as YAML, or in two forms that other tools' command lines take."""
    written = text
    if re.fullmatch(r"\(.*\)", text):  # a Python tuple
        written = f"[{text[1:-1]}]"
    if text.startswith("{"):  # YAML needs a space after the colon of {momentum:0.9}
        written = _WITHOUT_SPACE.sub(lambda found: f"{found[1]}: " if found[1] else found[0], text)
    try:
        return read_yaml(written)
    except ValueError as error:
        raise ValueError(f"--{key}: {text[:80]!r} is not a YAML value: {error}") from error
