"""The fields of a config, section by section, as their types, defaults and docstrings have them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from optimizer.config import attribute_docstring

from ..config.marks import find_section
from ..config.schema import ExperimentConfig
from .field_text import type_text, value_text

NAME = "NAME"
"""Stands in a path for a name that the user gives: that of a component."""
CONFIG = "config"
"""The name of the whole config as a section."""


@dataclass(frozen=True)
class ConfigField:
    """One field of the config.

    Attributes:
        path: Dotted path in a config, with `NAME` where the user gives a name.
        form: Type, allowed values, range and default, and whether a resume may change it, if the field is marked.
        meaning: Its docstring.
        section: Path of the section that it holds; "" for a plain value.
    """

    path: str
    form: str
    meaning: str
    section: str = ""


@dataclass(frozen=True)
class Section:
    """A mapping in the config.

    Attributes:
        head: The field that holds it, under the section's own path.
        fields: The fields in it.
        model: The class of the mapping.
        also: The other paths at which a config holds such a mapping.
    """

    head: ConfigField
    fields: tuple[ConfigField, ...]
    model: type[BaseModel]
    also: tuple[str, ...] = ()


def sections() -> list[Section]:
    """Return the whole config and all sections in it, each followed by its own.

    One that a config holds in several places is returned for the last of them.
    """
    places: dict[type[BaseModel], list[str]] = {}
    for section in _every_section():
        places.setdefault(section.model, []).append(section.head.path)
    last = {path: paths[-1] for paths in places.values() for path in paths}
    merged = []
    for section in _every_section():
        *others, own = places[section.model]
        if section.head.path == own:
            fields = tuple(replace(field, section=last.get(field.section, "")) for field in section.fields)
            merged.append(replace(section, fields=fields, also=tuple(others)))
    return merged


def matching(name: str) -> list[Section | ConfigField]:
    """Return the sections and fields that `name` stands for.

    Args:
        name: A whole dotted path, in which a component's name may stand for `NAME`; or its last part, in any case. A
            field that holds a section is found as that section.
    """
    found: list[Section | ConfigField] = []
    for section in _every_section() if "." in name else sections():
        found += [section] if _matches(name, section.head.path) else []
        found += [field for field in section.fields if not field.section and _matches(name, field.path)]
    return found


def names() -> list[str]:
    """Return the paths of all sections and fields, and the last part of each."""
    every = _every_section()
    paths = [path for section in every for path in (section.head.path, *(field.path for field in section.fields))]
    return list(dict.fromkeys([*paths, *map(_last_name, paths)]))


def is_path(name: str) -> bool:
    """Return whether `name` is a dotted path that holds no name of the user's, and so can mean nothing else."""
    return "." in name and name in names()


def _every_section() -> list[Section]:
    whole = ConfigField(CONFIG, "a YAML or JSON file", ExperimentConfig.__doc__ or "", section=CONFIG)
    return list(_sections(ExperimentConfig, "", whole))


def _sections(model: type[BaseModel], path: str, head: ConfigField) -> Iterator[Section]:
    schema = model.model_json_schema(by_alias=True)["properties"]
    fields, inner = [], []
    for name, info in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        held = find_section(model, name)
        form, meaning = _form_text(info, schema[name]), attribute_docstring(model, name) or ""
        if held is None:
            fields.append(ConfigField(where, form + _mark_text(info), meaning))
            continue
        if getattr(held.model, "from_text", False):
            form = f"path | {form}"
        below, own_form = (f"{where}.{NAME}", "mapping, one for each name") if held.several else (where, form)
        fields.append(ConfigField(where, form, meaning, section=below))
        inner.append((held.model, below, ConfigField(below, own_form, meaning, section=below)))
    yield Section(head, tuple(fields), model)
    for section in inner:
        yield from _sections(*section)


def _form_text(info: FieldInfo, schema: dict[str, Any]) -> str:
    return f"{type_text(schema)}, {_default_text(info, schema)}"


def _default_text(info: FieldInfo, schema: dict[str, Any]) -> str:
    if info.is_required():
        return "required"
    value = schema["default"] if "default" in schema else info.get_default(call_default_factory=True)
    plain = value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, BaseModel) else value
    return f"default {value_text(plain)}"


def _mark_text(info: FieldInfo) -> str:
    return next((f"; {note.value}" for note in info.metadata if isinstance(note, Enum)), "")


def _matches(name: str, path: str) -> bool:
    if "." not in name:
        return name.lower() == _last_name(path).lower()
    parts, given = path.split("."), name.split(".")
    return len(parts) == len(given) and all(part in (NAME, word) for part, word in zip(parts, given, strict=True))


def _last_name(path: str) -> str:
    return path.removesuffix(f".{NAME}").rpartition(".")[2]
