"""`innerstep schema`: a JSON Schema of a config, in which the parameters follow the `type`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY

from ..config.class_choice import ClassChoice
from ..config.entries import ComponentConfig, DataConfig, ObjectiveConfig, OptimConfig
from ..config.evaluation import EvaluationConfig
from ..config.policy import PolicyConfig
from ..config.presets import PRESET
from ..config.schema import ExperimentConfig
from ..runtime.files import write_atomically
from .registry_listing import plugins_of
from .schema_classes import (
    AnyRegistry,
    Definitions,
    NamedClass,
    branch,
    dotted_paths,
    key_schema,
    named_classes,
    tagged_keys,
)
from .schema_sections import add_section_rules
from .schema_values import INTERPOLATION, REFERENCE, JsonSchema, as_written, notes_of, with_shared

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that both editors and Python's jsonschema check and complete by in full."""
_ENTRIES: tuple[type[ClassChoice], ...] = (
    *(DataConfig, ComponentConfig, PolicyConfig, OptimConfig, ObjectiveConfig, EvaluationConfig),
)
_SCHEDULE, _FALLBACK = SCHEDULE_REGISTRY.name, "fallback"
_TAGGED = {SCHEDULE_REGISTRY.name: _SCHEDULE, OPTIMIZER_BUILDER_REGISTRY.name: _FALLBACK}
"""Names of definitions of entries `{type: KEY, **fields}`."""
_SOURCES: dict[type[ClassChoice], str] = {PolicyConfig: "path", ComponentConfig: "ema_of"}
"""The field of an entry that brings type and parameters in place of the entry itself."""
_EXTENDED = "extended."
"""Prefix of the definitions for a file that extends another, in which nothing is required."""


def write_schema(path: Path, config: Sequence[Path] = ()) -> None:
    """Write the JSON Schema of a config into a file.

    Args:
        path: The file.
        config: The files of a config, whose plugins and classes by dotted path are in the schema too.

    Raises:
        ConfigError: The config cannot be read, or a plugin cannot be imported.
        OutputError: The file cannot be written.
    """
    write_atomically(path, schema_text(config))


def schema_text(config: Sequence[Path] = ()) -> str:
    """Return the JSON Schema of a config as text. Arguments and errors are those of `write_schema`."""
    with plugins_of(config) as values:
        return json.dumps(config_schema(sorted(set(dotted_paths(values)))), indent=1, ensure_ascii=False) + "\n"


def config_schema(paths: Sequence[str] = ()) -> JsonSchema:
    """Return the JSON Schema of a config, of draft 7.

    Args:
        paths: Dotted paths of classes whose parameters are in it, beside those of all keys.
    """
    definitions = _Definitions(paths)
    extending = json.dumps(definitions.written(is_whole=False)).replace(f'"{REFERENCE}', f'"{REFERENCE}{_EXTENDED}')
    extended = {_EXTENDED + name: schema for name, schema in json.loads(extending).items()}
    return {
        "$schema": DRAFT,
        "title": "A config of innerstep",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"{REFERENCE}{_EXTENDED}{ExperimentConfig.__name__}"},
        "else": {"$ref": REFERENCE + ExperimentConfig.__name__},
        "$defs": with_shared({**definitions.written(is_whole=True), **extended}),
    }


class _Definitions:
    """The definitions of a config's schema.

    Args:
        paths: Dotted paths of classes.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._definitions = Definitions()
        self._definitions.add(ExperimentConfig.__name__, ExperimentConfig)
        self._names: dict[tuple[str, str], str] = {}
        self._classes: dict[str, list[NamedClass]] = {}
        registries: list[AnyRegistry] = [SCHEDULE_REGISTRY, *(entry.registry for entry in _ENTRIES)]
        for registry in registries:
            if registry.name not in self._classes:
                self._classes[registry.name] = named_classes(registry, paths)
                for named in self._classes[registry.name]:
                    name = self._definitions.add(f"{registry.name}.{named.key}", named.cls)
                    self._names[registry.name, named.key] = name

    def written(self, is_whole: bool) -> dict[str, JsonSchema]:
        """Return the definitions by name.

        Args:
            is_whole: Whether the file has all of the config; false: it extends another one.
        """
        schemas = {name: as_written(schema, _TAGGED, is_whole) for name, schema in self._definitions.schemas.items()}
        for entry in _ENTRIES:
            self._complete_entry(schemas, entry)
        add_section_rules(schemas, is_whole)
        schemas[_SCHEDULE] = self._schedule(schemas, is_whole)
        schemas[_FALLBACK] = self._fallback(schemas, is_whole)
        return schemas

    def _complete_entry(self, schemas: Mapping[str, JsonSchema], entry: type[ClassChoice]) -> None:
        """Let the parameters of an entry follow its type."""
        classes, schema = self._classes[entry.registry.name], schemas[entry.__name__]
        preset = {PRESET: "The optimizer that the component's class recommends."} if entry is OptimConfig else {}
        schema["properties"]["type"] = {**key_schema(classes, preset), **notes_of(schema["properties"]["type"])}
        source = _SOURCES.get(entry)
        branches = []
        for named in classes:
            name = self._names[entry.registry.name, named.key]
            then: JsonSchema = {"properties": {"params": {"$ref": REFERENCE + name}}}
            if schemas[name].get("required"):
                then |= _required("params", source)
            branches.append(branch(named, then))
        if source is not None and schema.pop("required", None):
            branches.append(_required("type", source))
        schema["allOf"] = branches

    def _schedule(self, schemas: Mapping[str, JsonSchema], is_whole: bool) -> JsonSchema:
        """Return the schema of a schedule, whose fields stand beside its type."""
        classes, branches = self._classes[SCHEDULE_REGISTRY.name], []
        for named in classes:
            name = self._names[SCHEDULE_REGISTRY.name, named.key]
            if "properties" in schemas[name]:
                schemas[name]["properties"]["type"] = {}
            branches.append(branch(named, {"$ref": REFERENCE + name}))
        return _tagged(classes, branches, is_whole)

    def _fallback(self, schemas: Mapping[str, JsonSchema], is_whole: bool) -> JsonSchema:
        """Return the schema of an optimizer inside another one, whose fields stand beside its type."""
        registry, branches = OPTIMIZER_BUILDER_REGISTRY, []
        allowed = set(tagged_keys(self._definitions.schemas, registry))
        classes = [one for one in self._classes[registry.name] if one.key in allowed or not one.is_listed]
        for named in classes:
            name = self._names[registry.name, named.key]
            fields = {key: {"$ref": f"{REFERENCE}{name}/properties/{key}"} for key in schemas[name]["properties"]}
            branches.append(branch(named, {**schemas[name], "properties": {"type": {}, **fields}}))
        return _tagged(classes, branches, is_whole)


def _required(field: str, source: str | None) -> JsonSchema:
    """Return the rule that `field` is required, unless the entry has another `source` of it."""
    rule: JsonSchema = {"required": [field]}
    return rule if source is None else {"if": {"required": [source]}, "else": rule}


def _tagged(classes: Sequence[NamedClass], branches: list[JsonSchema], is_whole: bool) -> JsonSchema:
    schema: JsonSchema = {
        "type": ["object", "string"],
        "pattern": INTERPOLATION,
        "patternErrorMessage": "must be a mapping with a type",
        "properties": {"type": key_schema(classes)},
        "allOf": branches,
    }
    return {**schema, **({"required": ["type"]} if is_whole else {})}
