"""`load_config`: from a file or a mapping, with overrides, to the validated config."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from optimizer.config import explain, nearest, search_in

from ..errors import ConfigError
from ..runtime.version import newer, writer_version
from .override_fields import text_fields
from .overrides import apply_overrides
from .plugins import import_plugins, search_folders, without_consequences
from .policy import with_parts_spelled_out
from .schema import ExperimentConfig
from .yaml_file import read_config_file

_NAMED_ENTRIES = {"model.components": "type", "model.component_optims": "type", "model.policy.parts": "modules"}
"""Sections of named entries, and the field that an entry needs."""


def load_config(
    source: Mapping[str, object] | str | Path, overrides: Mapping[str, object] | None = None
) -> ExperimentConfig:
    """Return the validated config of a mapping or a YAML or JSON file, with dotted overrides set.

    The modules that the config names are imported: with a file, also from its folder and from the working directory.
    Within `with no_plugins():` no module is imported, and naming one is an error.

    Args:
        source: The config, or the path of its file. Values may be numpy's and torch's scalars, paths and tuples too.
        overrides: Values by dotted key.

    Raises:
        ConfigError: Something is wrong in the file or the config. The message has one line an error.
    """
    raw = source if isinstance(source, Mapping) else read_config_file(Path(source))
    ordered = dict(sorted((overrides or {}).items(), key=lambda item: item[0] != "plugins"))
    try:
        with search_in([] if isinstance(source, Mapping) else search_folders(Path(source))):
            config = apply_overrides(with_parts_spelled_out(raw) if ordered else raw, ordered, _takes_text)
            _refuse_new_names(raw, config, ordered)
            return ExperimentConfig.model_validate(config)
    except ValidationError as error:
        lines = explain(without_consequences(error))
        if not isinstance(source, Mapping) and any(detail["type"] == "unknown_name" for detail in error.errors()):
            lines += filter(None, [newer(writer_version(Path(source)))])
        raise ConfigError("\n".join(lines)) from error


def _takes_text(config: Mapping[str, object], path: Sequence[str], text: str) -> bool:
    plugins = config.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        with suppress(ValidationError):  # it is reported where the plugins are read
            import_plugins(plugins)
    return text_fields(ExperimentConfig)(config, path, text)


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
