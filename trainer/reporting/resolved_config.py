"""The whole config as YAML, with every default filled in and the place that each value comes from."""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from optimizer.types import JsonObject

from ..checkpoint.upgrades import strings
from ..config.completion import Completed
from ..config.places import Path, place_of
from ..config.plugins import heading_of_folders
from ..config.presets import is_preset
from ..config.schema import ExperimentConfig
from ..config.yaml_values import write_inline

_LONGEST = 100
"""Characters of a list that stands in one line."""
_DEFAULT = "default"
_PRESET = "preset"
_OPTIMS = ("model", "component_optims")
_POLICY = ("model", "policy")


def resolved_text(config: ExperimentConfig, completed: Completed, with_origins: bool) -> str:
    """Return a config as YAML that reads back to the same config.

    Args:
        config: The config.
        completed: The values that it was validated from.
        with_origins: Whether each line ends with where its value comes from: a file and a line, an override, an
            environment variable, a preset, or the default.
    """
    values = config.resolved()
    lines = list(_lines(values, ()))
    width = max((len(text) for text, path in lines if path is not None and len(text) <= _LONGEST), default=0)
    origins = _Origins(config, completed)
    texts = [
        f"{text.ljust(width)}  # {origins.of(path)}" if with_origins and path is not None else text
        for text, path in lines
    ]
    return heading_of_folders(strings(values), FilePath.cwd()) + "\n".join(texts) + "\n"


def _lines(values: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Path | None]]:
    """Yield the lines of a mapping, each with the path of the value in it; None: it begins a mapping or a list."""
    indent = "  " * len(path)
    for key, value in values.items():
        name, inner = f"{indent}{write_inline(key)}:", (*path, key)
        text = f"{name} {write_inline(value)}"
        if isinstance(value, dict) and value:
            yield name, None
            yield from _lines(value, inner)
        elif isinstance(value, list) and value and len(text) > _LONGEST:
            yield name, None
            for index, item in enumerate(value):
                yield f"{indent}  - {write_inline(item)}", (*inner, str(index))
        else:
            yield text, inner


class _Origins:
    """Finds where the values of a config come from."""

    def __init__(self, config: ExperimentConfig, completed: Completed) -> None:
        self._completed = completed
        self._presets = {name: optim.preset for name, optim in config.model.component_optims.items()}
        self._raw: JsonObject = completed.values

    def of(self, path: Path) -> str:
        """Return the origin of the value at `path`, as text for a comment."""
        given = self._given(path)
        if given is not None:
            place = place_of(self._completed.places, given)
            variables = [f"env {name}" for name in self._completed.variables.get(given, ())]
            found = [*variables, *([] if place is None else [_short(place.source, place.line)])]
            if path[-1] == "type" and is_preset(_value_at(self._raw, path[:-1])):
                found.insert(0, _PRESET)
            return ", ".join(found) or "given"
        if self._is_of_preset(path):
            return _PRESET
        if path[:2] == _POLICY and _value_at(self._raw, (*_POLICY, "path")) is not None:
            return ", ".join(["model.policy.path", self.of((*_POLICY, "path"))])
        return _DEFAULT

    def _given(self, path: Path) -> Path | None:
        """Return the path of the value in the files and overrides that the one at `path` is, or is in; None: there is
        none."""
        value: object = self._raw
        for end, part in enumerate(path):
            if not isinstance(value, dict):
                return path[:end] if value is not None else None
            if part not in value:
                return None
            value = value[part]
        return path

    def _is_of_preset(self, path: Path) -> bool:
        if path == ("train", "grad_clip_norm"):
            return any(preset is not None and preset.joint_clip_norm for preset in self._presets.values())
        preset = self._presets.get(path[2]) if path[:2] == _OPTIMS and len(path) > 3 else None
        return preset is not None and _value_at(preset.entry, path[3:]) is not None


def _short(source: str, line: int | None) -> str:
    return source if line is None else f"{source}:{line}"


def _value_at(value: object, path: Path) -> object:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
