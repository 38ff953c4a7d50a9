"""A config from a mapping, a file or a repository, with overrides, validated as any class of config."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from optimizer.config import explain, nearest, search_in

from ..errors import ConfigError
from ..run_layout import CONFIG
from ..runtime.hub import is_reference, local_folder, without_code
from ..runtime.version import newer, writer_version
from .homes import naming_homes
from .lerobot_names import refuse_lerobot_names
from .override_fields import text_fields
from .overrides import apply_overrides
from .placed import PlacedConfig
from .places import with_places
from .plugins import import_plugins, search_folders, without_consequences, working_directory
from .policy import with_parts_spelled_out
from .yaml_file import read_placed_file

Model = TypeVar("Model", bound=BaseModel)

_NAMED_ENTRIES = {"model.components": "type", "model.component_optims": "type", "model.policy.parts": "modules"}
"""Sections of named entries, and the field that an entry needs."""


def read_config(
    model: type[Model],
    source: Mapping[str, object] | str | Path,
    overrides: Mapping[str, object],
    allow_plugins: bool = False,
) -> Model:
    """Return the validated config of a mapping, a YAML or JSON file, or a repository on the hub.

    Args:
        model: The class of the config.
        source: The config, the path of its file, or hf://ORG/NAME of a repository with a config.yaml.
        overrides: Values by dotted key.
        allow_plugins: Whether a config from the hub may import the modules that it names.

    Raises:
        ConfigError: Something is wrong in the file or the config. The message has one line an error.
    """
    file = None if isinstance(source, Mapping) else _file_of(source)
    raw, places = read_placed_file(file) if file is not None else (source, {})
    assert isinstance(raw, Mapping)
    ordered = dict(sorted(overrides.items(), key=lambda item: item[0] != "plugins"))
    folders = working_directory() if is_reference(source) else [] if file is None else search_folders(file)

    def takes_text(config: Mapping[str, object], path: Sequence[str], text: str) -> bool:
        _import_plugins_of(config)
        return text_fields(model)(config, path, text)

    try:
        with without_code(source, allow_plugins), search_in(folders):
            config = apply_overrides(with_parts_spelled_out(raw) if ordered else raw, ordered, takes_text)
            refuse_lerobot_names(config)
            _refuse_new_names(raw, config, ordered)
            validated = model.model_validate(config)
    except ValidationError as error:
        lines = explain(naming_homes(without_consequences(error), model))
        if file is not None and any(detail["type"] == "unknown_name" for detail in error.errors()):
            lines += filter(None, [newer(writer_version(file))])
        raise ConfigError(with_places("\n".join(lines), places, model.model_fields)) from error
    if isinstance(validated, PlacedConfig):
        validated.mark(places)
    return validated


def _file_of(source: str | Path) -> Path:
    """Return the file of a config, downloaded if it is on the hub. Raises ConfigError."""
    if not isinstance(source, str) or not is_reference(source):
        return Path(source)
    file = local_folder(source, "config", [CONFIG]) / CONFIG
    if not file.is_file():
        raise ConfigError(f"config: {source} has no {CONFIG}, which `innerstep push` writes")
    return file


def _import_plugins_of(config: Mapping[str, object]) -> None:
    plugins = config.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        with suppress(ValidationError):  # it is reported where the plugins are read
            import_plugins(plugins)


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
