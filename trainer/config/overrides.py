"""Overrides from the command line, `--dotted.key=value`, and how they are put into a config."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optimizer.config import shown_value

from ..errors import ConfigError
from .plain_values import plain
from .yaml_values import read_yaml

_WITHOUT_SPACE = re.compile(r""" (?<=[\s{[,:])(?:"(?:[^"\\]|\\.)*" | '[^']*') | ([{,]\s*[\w.]+):(?=\S)""", re.VERBOSE)
"""What is in quotes, or else a key with its colon, and the value right after it."""
TakesText = Callable[[Mapping[str, Any], Sequence[str], str], bool]
"""Whether the field that a path leads to, in a config, takes this text as it was typed."""


class Typed(str):
    """A value as it was typed on the command line. What it means depends on the field that it is for."""


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Return {dotted key: Typed} of `--key=value` and `--key value` arguments.

    Raises ConfigError for an argument of another form.
    """
    overrides: dict[str, Any] = {}
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
    config: Mapping[str, Any], overrides: Mapping[str, Any], takes_text: TakesText | None = None
) -> dict[str, Any]:
    """Return a plain copy of `config` with each dotted key set.

    takes_text: which fields take what was typed as it is; the others, and all if it is left out, read it as YAML.
    Raises ConfigError where a key leads into a value, or a value is not plain.
    """
    try:
        result: dict[str, Any] = plain(config)
        for key, value in overrides.items():
            _put(result, key, value if isinstance(value, Typed) else plain(value, key))
        for key in overrides:
            place, last = _place(result, key)
            if isinstance(place.get(last), Typed):
                as_it_is = takes_text is not None and takes_text(result, key.split("."), place[last])
                place[last] = str(place[last]) if as_it_is else _read(key, place[last])
        return plain(result)  # type: ignore[no-any-return]  # a copy of a dict is one
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    place, last = _place(config, key)
    place[last] = value


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


def _read(key: str, text: str) -> Any:
    """Return what `text` means as YAML, and in two forms that other tools' command lines take."""
    written = text
    if re.fullmatch(r"\(.*\)", text):  # a Python tuple
        written = f"[{text[1:-1]}]"
    if text.startswith("{"):  # {momentum:0.9}, which is no mapping in YAML
        written = _WITHOUT_SPACE.sub(lambda found: f"{found[1]}: " if found[1] else found[0], text)
    try:
        return read_yaml(written)
    except ValueError as error:
        raise ValueError(f"--{key}: {text[:80]!r} is not a YAML value: {error}") from error
