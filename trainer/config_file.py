"""Reads YAML or JSON, and `--dotted.key=value` overrides, into a plain dict."""

import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as in YAML 1.2, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: the text '1e-4' in quotes."""


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML (or `.json`) file at `path`.

    Raises ConfigError if it cannot be read, with line and column where it is not well-formed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. Give the path of a YAML or JSON file.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {_without_file_name(error)}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: must hold a mapping (data:, model:, train:); got {type(config).__name__}")
    return config


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Return {dotted key: value} of `--key=value` and `--key value` arguments; values are YAML.

    Raises ConfigError for an argument of another form.
    """
    overrides: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        key, separator, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise ConfigError(f"{argument}: not understood; an override is --dotted.key=value")
        if not separator:
            if not remaining or remaining[0].startswith("--"):
                raise ConfigError(f"{argument}: no value; write {argument}=VALUE")
            text = remaining.pop(0)
        overrides[key] = _parse_value(key, text)
    return overrides


def apply_overrides(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` with each dotted key set. Raises ConfigError where a key leads into a value."""
    result: dict[str, Any] = json.loads(json.dumps(config))
    for key, value in overrides.items():
        *parents, last = key.split(".")
        place: Any = result
        for depth, parent in enumerate(parents):
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise ConfigError(f"--{key}: {'.'.join(parents[: depth + 1])} is {place!r}, which has no fields")
        place[last] = value
    return result


def write_yaml(config: dict[str, Any]) -> str:
    """Return `config` as YAML that `read_config_file` reads back to the same dict."""
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _parse_value(key: str, text: str) -> Any:
    if re.fullmatch(r"\(.*\)", text):  # a Python tuple, as other tools' command lines write it
        text = f"[{text[1:-1]}]"
    if text.startswith("{"):  # {momentum:0.9}, as other tools' command lines write it, is no mapping in YAML
        text = re.sub(r"([{,]\s*[\w.]+):(?=\S)", r"\1: ", text)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{key}: {text!r} is not a YAML value: {_without_file_name(error)}") from error


def _without_file_name(error: Exception) -> str:
    return " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
