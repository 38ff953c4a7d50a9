"""Texts on each name in a config: the keys of all registries with their parameters, and the config's fields."""

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from optimizer import SCHEDULE_REGISTRY, Registry, UnknownKeyError
from optimizer.config import NotImportedError, explain, filtered, nearest, search_in, shown_value, signature_model

from ..config.composition import compose
from ..config.entries import ComponentConfig, DataConfig, ObjectiveConfig, OptimConfig
from ..config.evaluation import EvaluationConfig
from ..config.places import with_places
from ..config.plugins import search_folders
from ..config.schema import ExperimentConfig
from ..errors import ConfigError
from ..interfaces.metrics_sink import SINK_REGISTRY
from . import config_reference
from .config_reference import ConfigField, Section
from .field_text import type_text, value_text, wrapped
from .metrics_log import sink_classes  # noqa: F401  registers the sinks
from .refused_options import refused_options

_AnyRegistry = Registry[Any]
_REGISTRIES: tuple[_AnyRegistry, ...] = (
    OptimConfig.registry,
    SCHEDULE_REGISTRY,
    ComponentConfig.registry,
    DataConfig.registry,
    ObjectiveConfig.registry,
    EvaluationConfig.registry,
    SINK_REGISTRY,
)
_NARROWEST = 40
"""Columns that a description takes at least: a narrower terminal folds its lines itself."""


@contextmanager
def plugins_of(config: Sequence[Path]) -> Iterator[Mapping[str, object]]:
    """Run the body with the plugins of a config imported, and with modules looked for beside its files.

    Args:
        config: Its files, of which nothing but `plugins` is validated. Without one the body runs as it is.

    Yields:
        The config's values, as its files have them.

    Raises:
        ConfigError: A file cannot be read, or a plugin cannot be imported.
    """
    if not config:
        yield {}
        return
    composition = compose(config)
    folders = dict.fromkeys(folder for file in composition.files for folder in search_folders(file))
    with search_in(list(folders)):
        try:
            ExperimentConfig.model_validate({"plugins": composition.values.get("plugins", [])})
        except ValidationError as error:  # always: the rest of the config is not there
            if lines := explain(filtered(error, lambda detail: detail["loc"][:1] == ("plugins",))):
                message = with_places("\n".join(lines), composition.places, ExperimentConfig.model_fields)
                raise ConfigError(message) from error
        yield composition.values


def listing(pattern: str = "*") -> str:
    """Return every key with the first line of its docstring, by registry.

    Args:
        pattern: Keys and aliases that match it are listed. It may have * and ?; upper and lower case are the same.

    Raises:
        ConfigError: No key matches.
    """
    chosen = {registry.name: _lines(registry, pattern) for registry in _REGISTRIES}
    if not any(chosen.values()):
        raise ConfigError(f"--filter: no key matches {pattern!r}{nearest(pattern.strip('*?'), _all_keys())}")
    width = max(len(key) for lines in chosen.values() for key in lines)
    blocks = []
    for name, texts in chosen.items():
        lines = [f"  {key.ljust(width)}  {text}" for key, text in texts.items()]
        blocks += ["\n".join([f"{name}:", *lines])] if lines else []
    if pattern == "*":
        blocks.append("`innerstep describe KEY` shows the parameters of a key, `innerstep describe config` the config.")
    return "\n\n".join(blocks)


def key_summaries() -> list[tuple[str, str, str]]:
    """Return the registry's name, the key and the first line of the docstring of each key and alias of innerstep's."""
    own = {package.partition(".")[0] for package in (__name__, Registry.__module__)}
    return [
        (registry.name, name, _first_line(cls))
        for registry in _REGISTRIES
        for key, cls in sorted(registry.items())
        if cls.__module__.partition(".")[0] in own
        for name in (key, *registry.aliases_of(key))
    ]


def description(name: str) -> str:
    """Return the parameters of a key, the fields of a section of the config, or one field; all that `name` stands for.

    Args:
        name: A key, an alias, the dotted path of a class, a dotted path in the config, or the last part of one.

    Raises:
        ConfigError: There is no such name.
    """
    parts = config_reference.matching(name)
    classes = [] if config_reference.is_path(name) else _find_classes(name, is_optional=bool(parts))
    if not classes and not parts:
        known = [*_all_keys(), *config_reference.names()]
        raise ConfigError(
            f"unknown key {name!r}{nearest(name, known)} `innerstep list` shows all keys, `innerstep describe config`"
            " the sections of the config."
        )
    width = max(shutil.get_terminal_size((120, 24)).columns, _NARROWEST)
    blocks = [_class_text(registry, cls, width) for registry, cls in classes]
    blocks += [_section_text(part, width) if isinstance(part, Section) else _field_text(part, width) for part in parts]
    if classes and parts:
        kinds = " and ".join(f"of a {registry.name}" for registry, _ in classes)
        blocks.insert(0, f"{shown_value(name)} is the key {kinds}, and a part of the config:")
    return "\n\n".join(blocks)


def _find_classes(name: str, is_optional: bool) -> list[tuple[_AnyRegistry, type[object]]]:
    """Return the classes called `name`. Raises ConfigError if a module cannot be imported, unless `is_optional`."""
    found = []
    for registry in _REGISTRIES:
        if registry.is_of_family(name):  # in another registry it would be the path of a class
            return [(registry, _member(registry, name))]
    for registry in _REGISTRIES:
        try:
            found.append((registry, registry[name]))
        except UnknownKeyError as error:
            if isinstance(error.__cause__, NotImportedError) and not is_optional:
                meant = nearest(name, [path for path in config_reference.names() if "." in path])
                hint = "" if meant == "." else f"the config has no {name!r}{meant} As a class: "
                raise ConfigError(f"{hint}{name!r}: {error.__cause__}") from error
    return found


def _member(registry: _AnyRegistry, key: str) -> type[object]:
    """Return the class of a family that `key` names. Raises ConfigError if there is none."""
    try:
        return registry[key]
    except UnknownKeyError as error:
        raise ConfigError(str(error)) from error


def _all_keys() -> list[str]:
    return [key for registry in _REGISTRIES for key in registry]


def _section_text(section: Section, width: int) -> str:
    head = section.head
    meaning = f"{head.meaning} The same section: {', '.join(section.also)}." if section.also else head.meaning
    lines = [*_folded(f"section {head.path}: {head.form}", width, 0), *wrapped(meaning, width, 2), "", "  fields:"]
    for field in section.fields:
        inner = f" See `innerstep describe {field.section}`." if field.section else ""
        lines += _entry_lines(field.path.rpartition(".")[2], field.form, field.meaning + inner, width)
    return "\n".join(lines)


def _field_text(field: ConfigField, width: int) -> str:
    return "\n".join([*_folded(f"field {field.path}: {field.form}", width, 0), *wrapped(field.meaning, width, 2)])


def _entry_lines(name: str, form: str, meaning: str, width: int) -> list[str]:
    return [*_folded(f"{name}: {form}", width, 4), *(wrapped(meaning, width, 8) if meaning else [])]


def _folded(text: str, width: int, indent: int) -> list[str]:
    hang = " " * (indent + 4)
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=hang, break_long_words=False)


def _class_text(registry: _AnyRegistry, cls: type[object], width: int) -> str:
    key = registry.key_of(cls)
    aliases = f" (also {', '.join(registry.aliases_of(key))})" if registry.aliases_of(key) else ""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\n\nExamples:\n")[0]
    lines = [
        *_folded(f"{registry.name} {key}{aliases}: {cls.__module__}.{cls.__qualname__}{_source(cls)}", width, 0),
        *wrapped(text, width, 2),
    ]
    if registry is SINK_REGISTRY:  # `train.log` names it and gives no parameters
        return "\n".join(lines)
    lines += ["", "  parameters:"]
    refused = {**(refused_options(cls) if key in registry else {}), **getattr(cls, "refused_params", {})}
    schema = (cls if issubclass(cls, BaseModel) else signature_model(cls)).model_json_schema(by_alias=True)
    required = schema.get("required", [])
    for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: _base_depth(cls, item[0])):
        default = f"default {value_text(field['default'])}" if "default" in field else "optional"
        default = "required" if name in required else default
        if name not in refused:
            lines += _entry_lines(name, f"{type_text(field)}, {default}", field.get("description", ""), width)
    return "\n".join([*lines, *_refusals(refused, width)])


def _refusals(refused: dict[str, str], width: int) -> Sequence[str]:
    """Return the options that other keys have and this one refuses, with the reasons."""
    lines = []
    for reason in dict.fromkeys(refused.values()):
        names = ", ".join(name for name, of in refused.items() if of == reason)
        lines += [f"    {names}:", *wrapped(reason, width, 8)]
    return ["", "  refused:", *lines] if lines else []


def _lines(registry: _AnyRegistry, pattern: str) -> dict[str, str]:
    """Return the first line of the docstring by key, for the keys that match; then lines on members of families."""
    own = {key: _first_line(cls) for key, cls in sorted(registry.items()) if _matches(registry, key, pattern)}
    families = registry.family_summaries().items()
    return own | {key: line for key, line in families if fnmatchcase(key.lower(), pattern.lower())}


def _matches(registry: _AnyRegistry, key: str, pattern: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in (key, *registry.aliases_of(key)))


def _source(cls: type[object]) -> str:
    """Return the class of another library that `cls` builds or runs, where there is one."""
    other = getattr(cls, "optimizer_class", None) or getattr(cls, "scheduler_class", None)
    return "" if other is None else f", of {other.__module__}.{other.__qualname__}"


def _base_depth(cls: type[object], name: str) -> int:
    """Return how far up the class's bases a field is declared: its own fields are shown first.

    The parameters of a constructor are all its own, whatever attributes the bases declare.
    """
    if not issubclass(cls, BaseModel):
        return 0
    depths = [depth for depth, base in enumerate(cls.__mro__) if name in inspect.get_annotations(base)]
    return max(depths, default=0)


def _first_line(cls: type[object]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]
