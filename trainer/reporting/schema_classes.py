"""JSON schemas of the classes that a config can name: their parameters, and the branches by `type`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from optimizer import Registry, UnknownKeyError
from optimizer.config import REGISTRY_NOTE, arguments_model

from .schema_values import INTERPOLATION, REFERENCE, JsonSchema

AnyRegistry = Registry[Any]


@dataclass(frozen=True)
class NamedClass:
    """A class that a config can name.

    Attributes:
        key: Its key, or its dotted path.
        pattern: Matches each text that the loader takes for it: key and aliases, in any case of letters; or the path.
        cls: The class.
        is_listed: Whether it is under a key.
    """

    key: str
    pattern: str
    cls: type[Any]
    is_listed: bool

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.cls.__doc__ or "").strip().partition("\n")[0]


def named_classes(registry: AnyRegistry, paths: Iterable[str]) -> list[NamedClass]:
    """Return the classes under all keys of a registry, then those of its kind at the dotted paths."""
    found = []
    for key, cls in sorted(registry.items()):  # not in the order in which their modules were imported
        names = [_in_any_case(name) for name in (key, *registry.aliases_of(key))]
        found.append(NamedClass(key, f"^({'|'.join(names)})$", cls, is_listed=True))
    for path in paths:
        with suppress(UnknownKeyError):
            if not registry.is_of_family(path):
                found.append(NamedClass(path, f"^{_literal(path)}$", registry[path], is_listed=False))
    return found


def dotted_paths(value: object) -> Iterator[str]:
    """Yield each text under a key `type`, anywhere in the values of a config, that may be the path of a class."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and "." in kind and "$" not in kind:
            yield kind
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for one in inner:
        yield from dotted_paths(one)


def key_schema(classes: Iterable[NamedClass], others: Mapping[str, str] | None = None) -> JsonSchema:
    """Return the schema of a `type`.

    Args:
        classes: The classes. The path of another one may be given too.
        others: Other words that may stand there, with their meanings.
    """
    classes = list(classes)
    meanings = {**(others or {}), **{one.key: one.summary for one in classes}}
    patterns = [*(one.pattern for one in classes if one.is_listed), r"\.", INTERPOLATION]
    text = {"type": "string", "pattern": "|".join(patterns), "patternErrorMessage": "is not a known key"}
    return {"anyOf": [{"enum": list(meanings), "enumDescriptions": list(meanings.values())}, text]}


def tagged_keys(schema: object, registry: AnyRegistry) -> Iterator[str]:
    """Yield the keys of a registry that the fields in a schema take, of those that hold an object of the registry."""
    if isinstance(schema, Mapping):
        if schema.get(REGISTRY_NOTE) == registry.name:
            yield from schema["properties"]["type"]["anyOf"][0]["enum"]
        for inner in schema.values():
            yield from tagged_keys(inner, registry)
    for inner in schema if isinstance(schema, list) else ():
        yield from tagged_keys(inner, registry)


def branch(named: NamedClass, then: JsonSchema) -> JsonSchema:
    """Return the schema `then` for a mapping whose `type` names the class."""
    return {"if": {"properties": {"type": {"pattern": named.pattern}}, "required": ["type"]}, "then": then}


class Definitions:
    """Schemas by name, each once, as the parameters of classes need them."""

    def __init__(self) -> None:
        self.schemas: dict[str, JsonSchema] = {}

    def add(self, name: str, cls: type[Any]) -> str:
        """Add the parameters of a class, with the definitions that they refer to; return the name of the definition.

        Parameters of a class that does not declare them are open.
        """
        name = re.sub(r"[^\w.-]", "_", name)
        try:
            model = arguments_model(cls)
            schema = _schema_of(model, REFERENCE + "{model}")
            if any(self.schemas.get(inner, found) != found for inner, found in schema.get("$defs", {}).items()):
                schema = _schema_of(model, f"{REFERENCE}{name}.{{model}}")
                schema["$defs"] = {f"{name}.{inner}": found for inner, found in schema["$defs"].items()}
        except Exception:  # annotations and validators may be the user's; they are reported where they are used
            schema = {}
        self.schemas |= schema.pop("$defs", {})
        self.schemas[name] = {**schema, "description": (cls.__doc__ or "").strip().partition("\n\n")[0]}
        return name


class _AnyWhereUnknown(GenerateJsonSchema):
    """A value of a type that JSON has no schema for may be anything."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Do nothing: a default that JSON does not have is left out."""


def _schema_of(model: Any, references: str) -> JsonSchema:
    schema: JsonSchema = model.model_json_schema(
        by_alias=True, ref_template=references, schema_generator=_AnyWhereUnknown
    )
    return schema


def _in_any_case(name: str) -> str:
    """Return a pattern for a name in any case of letters, which JSON Schema has no flag for."""
    return "".join(f"[{c.lower()}{c.upper()}]" if c.lower() != c.upper() else _literal(c) for c in name)


def _literal(text: str) -> str:
    """Return a pattern for `text`. `re.escape` also escapes what JavaScript's strict patterns refuse to."""
    return re.sub(r"[.^$*+?()\[\]{}|\\/]", r"\\\g<0>", text)
