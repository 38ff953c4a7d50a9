"""Reads the experiment's config: a file or a mapping, with overrides, to the validated tree."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optimizer.config import explain, nearest, search_in

from ..errors import ConfigError
from ..runtime.version import newer, written_by
from .override_fields import text_fields
from .overrides import apply_overrides
from .plugins import import_plugins, search_folders, without_what_follows
from .schema import ExperimentConfig
from .yaml_file import read_config_file


def load_config(source: Mapping[str, Any] | str | Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Return the validated config of a mapping or a YAML or JSON file, with dotted overrides set.

    Values of a mapping and of overrides may be numpy's and torch's scalars, paths and tuples too. The modules that it
    names are imported: with a file, also from its folder and from the working directory. Within
    `with no_plugins():` none is, and naming one is an error. Raises ConfigError with one line an error.
    """
    raw = source if isinstance(source, Mapping) else read_config_file(Path(source))
    ordered = dict(sorted((overrides or {}).items(), key=lambda item: item[0] != "plugins"))
    try:
        with search_in([] if isinstance(source, Mapping) else search_folders(Path(source))):
            config = apply_overrides(raw, ordered, _takes_text)
            _refuse_new_names(raw, config, ordered)
            return ExperimentConfig.model_validate(config)
    except ValidationError as error:
        lines = explain(without_what_follows(error))
        if not isinstance(source, Mapping) and any(detail["type"] == "unknown_name" for detail in error.errors()):
            lines += filter(None, [newer(written_by(Path(source)))])
        raise ConfigError("\n".join(lines)) from error


def _takes_text(config: Mapping[str, Any], path: Sequence[str], text: str) -> bool:
    plugins = config.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        with suppress(ValidationError):  # it is reported where the plugins are read
            import_plugins(plugins)
    return text_fields(ExperimentConfig)(config, path, text)


def _refuse_new_names(raw: Mapping[str, Any], config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for an override of a component or an optimizer that is not there, and that it does not make."""
    for key in overrides:
        section, kind, name, *_ = [*key.split("."), "", "", ""]
        if section != "model" or kind not in ("components", "component_optims") or not name:
            continue
        before, now = (
            model.get(kind) if isinstance(model := tree.get("model"), Mapping) else None for tree in (raw, config)
        )
        there = list(before) if isinstance(before, Mapping) else []
        entry = now.get(name) if isinstance(now, Mapping) else None
        if name not in there and isinstance(entry, Mapping) and "type" not in entry:
            raise ConfigError(
                f"--{key}: there is no {name!r} in model.{kind}{nearest(name, there)} To add it, give its type too."
            )
