"""What can be named in a config: the keys of all registries, and what each takes."""

import inspect
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel

from optimizer import SCHEDULE_REGISTRY, Registry, UnknownKeyError
from optimizer.config import NotImportedError, nearest, signature_model

from ..config.schema import ComponentConfig, DataConfig, ObjectiveConfig, OptimConfig
from ..errors import ConfigError

_REGISTRIES: tuple[Registry[Any], ...] = (
    OptimConfig.registry,
    SCHEDULE_REGISTRY,
    ComponentConfig.registry,
    DataConfig.registry,
    ObjectiveConfig.registry,
)


def listing(pattern: str = "*") -> str:
    """Return every key with the first line of what it stands for, by registry.

    pattern: what a key or one of its aliases must match, with * and ?, in any case. Raises ConfigError if
    none does.
    """
    chosen = {
        registry.name: {key: cls for key, cls in sorted(registry.items()) if _matches(registry, key, pattern)}
        for registry in _REGISTRIES
    }
    if not any(chosen.values()):
        known = [known for registry in _REGISTRIES for known in registry]
        raise ConfigError(f"--filter: no key matches {pattern!r}{nearest(pattern.strip('*?'), known)}")
    width = max(len(key) for classes in chosen.values() for key in classes)
    blocks = []
    for name, classes in chosen.items():
        lines = [f"  {key.ljust(width)}  {_first_line(cls)}" for key, cls in classes.items()]
        blocks += ["\n".join([f"{name}:", *lines])] if lines else []
    return "\n\n".join(blocks)


def description(key: str) -> str:
    """Return what `key` stands for and its parameters. Raises ConfigError for an unknown one."""
    found = []
    for registry in _REGISTRIES:
        try:
            found.append((registry, registry[key]))
        except UnknownKeyError as error:
            if isinstance(error.__cause__, NotImportedError):
                raise ConfigError(f"{key!r}: {error.__cause__}") from error
    if not found:
        known = [known for registry in _REGISTRIES for known in registry]
        raise ConfigError(f"unknown key {key!r}{nearest(key, known)} `innerstep list` shows them all.")
    return "\n\n".join(_described(registry, cls) for registry, cls in found)


def _described(registry: Registry[Any], cls: type[Any]) -> str:
    key = registry.key_of(cls)
    aliases = f" (also {', '.join(registry.aliases_of(key))})" if registry.aliases_of(key) else ""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\n\nExamples:\n")[0]
    doc = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
    lines = [
        f"{registry.name} {key}{aliases}: {cls.__module__}.{cls.__qualname__}{_source(cls)}",
        doc,
        "",
        "  parameters:",
    ]
    schema = (cls if issubclass(cls, BaseModel) else signature_model(cls)).model_json_schema(by_alias=True)
    required = schema.get("required", [])
    for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: _depth(cls, item[0])):
        default = f"default {field['default']!r}" if "default" in field else "optional"
        default = "required" if name in required else default
        lines.append(f"    {name}: {_type(field)}, {default}")
        if "description" in field:
            lines += [f"        {line}" for line in field["description"].splitlines()]
    return "\n".join(lines)


def _matches(registry: Registry[Any], key: str, pattern: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in (key, *registry.aliases_of(key)))


def _source(cls: type[Any]) -> str:
    """Return the class of another library that `cls` builds or runs, where there is one."""
    other = getattr(cls, "optimizer_class", None) or getattr(cls, "scheduler_class", None)
    return "" if other is None else f", of {other.__module__}.{other.__qualname__}"


def _type(field: dict[str, Any]) -> str:
    if "const" in field or "enum" in field:
        return " | ".join(repr(value) for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(_type(option) for option in field["anyOf"]))
    if "type" in field.get("properties", {}):
        return f"{{type: {field['title'].upper()}, …}}"
    if "prefixItems" in field:
        return f"[{', '.join(_type(item) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        inner = _type(field.get("items", {}))
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if "$ref" in field:
        return "mapping"
    ranges = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    # Early pydantic writes 0.0 where later ones write 0.
    limits = [f"{sign} {str(field[name]).removesuffix('.0')}" for name, sign in ranges.items() if name in field]
    return " ".join([str(field.get("type", "anything")), *([f"({', '.join(limits)})"] if limits else [])])


def _depth(cls: type[Any], name: str) -> int:
    """Return how far up the class's bases a field is declared: its own fields are shown first."""
    depths = [depth for depth, base in enumerate(cls.__mro__) if name in inspect.get_annotations(base)]
    return max(depths, default=0)


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]
