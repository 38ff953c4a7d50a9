"""From the files of a config and its overrides to the values that are validated."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from optimizer.config import nearest, shown

from ..errors import ConfigError
from ..run_layout import ANCHORS
from .composition import Composition
from .interpolation import interpolate
from .override_fields import FieldsOf
from .overrides import apply_overrides, places_with
from .path_values import with_absolute_paths
from .places import Path, Places, place_of
from .plugins import import_plugins
from .policy import with_parts_spelled_out
from .type_changes import with_types_changed
from .written_text import with_written_text


@dataclass(frozen=True)
class Completed:
    """The values of a config as they are validated, and where each comes from."""

    values: dict[str, Any]
    places: Places
    variables: Mapping[Path, Sequence[str]]
    """The environment variables that a value was read from, by its path."""
    notes: Sequence[str]
    """Lines about values that were dropped."""


def complete(composition: Composition, overrides: Mapping[str, object], model: type[BaseModel]) -> Completed:
    """Return the values of a config with overrides set, interpolations filled in, and absolute paths.

    Args:
        composition: The values of its files.
        overrides: Values by dotted key.
        model: The class of the config. The modules that `plugins` names are imported where a class of theirs is needed.

    Raises:
        ConfigError: An override or an interpolation is wrong.
    """
    fields = FieldsOf(model, _import_plugins_of)
    ordered = dict(sorted(overrides.items(), key=lambda item: item[0].rstrip("+") != "plugins"))
    raw = with_parts_spelled_out(composition.values) if ordered else composition.values
    _refuse_unknown_anchors(composition.values, ordered)
    changed, notes = with_types_changed(raw, ordered, fields)
    values = apply_overrides(changed, ordered, fields)
    places = places_with(composition.places, ordered)
    filled = interpolate(values, places, fields)
    values = {name: value for name, value in filled.values.items() if not name.startswith(ANCHORS)}

    def folder_of(path: Path) -> FilePath | None:
        place = place_of(places, path)
        is_in_file = place is not None and place.source in composition.folders
        return composition.folders[place.source] if place is not None and is_in_file else FilePath(os.getcwd())

    _import_plugins_of(values)
    values = with_written_text(values, places, fields.takes_text)
    values = with_absolute_paths(values, model, folder_of)
    return Completed(values, places, filled.variables, [*composition.notes, *notes])


def _refuse_unknown_anchors(values: Mapping[str, object], overrides: Mapping[str, object]) -> None:
    """Refuse an override of a section x-… that no file has, as nothing would use it. Raises ConfigError."""
    for key in overrides:
        section = key.partition(".")[0].rstrip("+")
        if section.startswith(ANCHORS) and section not in values:
            known = [name for name in values if name.startswith(ANCHORS)]
            raise ConfigError(f"--{key}: the config has no {shown(section)}{nearest(section, known)}")


def _import_plugins_of(config: Mapping[str, object]) -> None:
    plugins = config.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        with suppress(ValidationError):  # it is reported where the plugins are read
            import_plugins(plugins)
