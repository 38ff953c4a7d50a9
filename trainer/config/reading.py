"""A config from a mapping, a file or a repository, with overrides, validated as any class of config."""

import warnings
from collections.abc import Mapping
from itertools import accumulate
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from optimizer.config import UNKNOWN_NAME, counted, explain, nearest, search_in

from ..errors import ConfigError, ConfigNote
from ..runtime.hub import without_code
from ..runtime.version import newer, writer_version
from .completion import Completed, complete
from .homes import naming_homes
from .lerobot_names import refuse_lerobot_names
from .placed import PlacedConfig
from .places import with_places
from .plugins import without_consequences
from .sources import ConfigSource, ReadSources, read_sources

Model = TypeVar("Model", bound=BaseModel)

_ROWS, _COLUMNS = 22, 72
"""Of the screen that a message fits on, with room for words that are not cut."""
_NAMED_ENTRIES = {"model.components": "type", "model.component_optims": "type", "model.policy.parts": "modules"}
"""Sections of named entries, and the field that an entry needs."""


def read_config(
    model: type[Model], source: ConfigSource, overrides: Mapping[str, object], allow_plugins: bool = False
) -> Model:
    """Return the validated config of a mapping, a YAML or JSON file, or a repository on the hub.

    Args:
        model: The class of the config.
        source: The config, the path of its file, or hf://ORG/NAME of a repository with a config.yaml. Or several of
            them, of which the later ones win.
        overrides: Values by dotted key.
        allow_plugins: Whether a config from the hub may import the modules that it names.

    Raises:
        ConfigError: Something is wrong in the file or the config. The message has one line an error.
    """
    return complete_config(model, read_sources(source), overrides, allow_plugins)[0]


def complete_config(
    model: type[Model], sources: ReadSources, overrides: Mapping[str, object], allow_plugins: bool = False
) -> tuple[Model, Completed]:
    """Return the validated config as `read_config` does, and its values with the places that they come from."""
    composition = sources.composition
    places = composition.places
    try:
        with without_code(sources.reference, allow_plugins), search_in(sources.folders):
            completed = complete(composition, overrides, model)
            places = completed.places
            for note in completed.notes:
                warnings.warn(note, ConfigNote, stacklevel=3)
            refuse_lerobot_names(completed.values)
            _refuse_new_names(composition.values, completed.values, overrides)
            config = model.model_validate(completed.values)
    except ValidationError as error:
        lines = explain(naming_homes(without_consequences(error), model))
        if any(detail["type"] == UNKNOWN_NAME for detail in error.errors()):
            lines += dict.fromkeys(filter(None, [newer(writer_version(file)) for file in composition.files]))
        message = with_places("\n".join(lines), places, model.model_fields)
        raise ConfigError("\n".join(_on_a_screen(message.split("\n")))) from error
    if isinstance(config, PlacedConfig):
        config.mark(places)
    return config, completed


def _on_a_screen(lines: list[str]) -> list[str]:
    """Return the lines that fit on a screen, the first in any case, and how many more there are."""
    rows = list(accumulate(-(-len(line) // _COLUMNS) for line in lines))
    fitting = max(1, sum(row <= _ROWS for row in rows))
    more = len(lines) - fitting
    return [*lines[:fitting], *([counted(more, "more mistake")] if more else [])]


def _refuse_new_names(raw: Mapping[str, object], config: Mapping[str, object], overrides: Mapping[str, object]) -> None:
    """Check that an override of a component, a part or an optimizer finds it, or creates it by all that it needs.

    Raises:
        ConfigError: It does neither.
    """
    for key in overrides:
        for section, needed in _NAMED_ENTRIES.items():
            name = key.removeprefix(f"{section}.").partition(".")[0]
            if not key.startswith(f"{section}.") or not name:
                continue
            before, now = (_mapping_at(tree, section) for tree in (raw, config))
            entry = now.get(name)
            if name not in before and isinstance(entry, Mapping) and needed not in entry:
                raise ConfigError(
                    f"--{key}: there is no {name!r} in {section}{nearest(name, list(before))} To add it, give its"
                    f" {needed} too."
                )


def _mapping_at(tree: Mapping[str, object], path: str) -> Mapping[str, object]:
    """Return the mapping that a path leads to; an empty one if there is none."""
    for part in path.split("."):
        inner = tree.get(part)
        tree = inner if isinstance(inner, Mapping) else {}
    return tree
