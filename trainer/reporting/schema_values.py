"""JSON schemas of values as a file may write them: numbers and lists as text, interpolations, and null."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.config import REGISTRY_NOTE

JsonSchema = dict[str, Any]
REFERENCE = "#/$defs/"
"""The text before the name of a definition in a reference to it."""
INTERPOLATION = r"\$\{"
"""Pattern of text that stands for a value of any type."""

_TEXT_FORMS = {
    "integer": r"^[+-]?\d[\d_]*(\.0*)?$",
    "number": r"^[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?$",
    "array": r"^\([^()]*\)$",
}
"""Patterns of the text that is read as a value of a type: '1e-3', '(0.9, 0.999)'."""
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_SHORT = 80
"""Characters of a schema that stands in each place where it is needed."""
_NESTED = ("properties", "patternProperties")
_SIMPLE = {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern"} | {
    *("items", "prefixItems", "minItems", "maxItems", "additionalProperties", "propertyNames", "format", "minLength")
}
"""Keywords that concern values of one type only, so that alternatives of several types can stand in one schema."""


def as_written(schema: Mapping[str, Any], tagged: Mapping[str, str], is_whole: bool) -> JsonSchema:
    """Return a JSON schema of pydantic's for a value as a file may write it, in the words of draft 7.

    Args:
        schema: The schema. References lead to definitions that are treated in the same way.
        tagged: The name of the definition for a `TaggedField`, by its registry's name.
        is_whole: Whether the file has all of the config; false: it extends another one, which may have what is missing.
    """
    if REGISTRY_NOTE in schema:
        return {"$ref": REFERENCE + tagged[schema[REGISTRY_NOTE]], **notes_of(schema)}
    own = {name: value for name, value in schema.items() if name != "title"}
    if not is_whole:
        own.pop("required", None)
    if "prefixItems" in own:
        own["items"] = own.pop("prefixItems")
    for name in _NESTED:
        if name in own:
            own[name] = {key: as_written(inner, tagged, is_whole) for key, inner in own[name].items()}
    if isinstance(own.get("additionalProperties"), Mapping):
        own["additionalProperties"] = as_written(own["additionalProperties"], tagged, is_whole)
    if "anyOf" in own:
        return _alternatives(own.pop("anyOf"), own, tagged, is_whole)
    if isinstance(own.get("items"), Mapping):
        own["items"] = as_written(own["items"], tagged, is_whole)
    elif "items" in own:
        own["items"] = [as_written(item, tagged, is_whole) for item in own["items"]]
    return _with_text(own)


def _alternatives(
    options: Sequence[Mapping[str, Any]], notes: JsonSchema, tagged: Mapping[str, str], is_whole: bool
) -> JsonSchema:
    """Return the schema of a value that fits one of several, without `anyOf` where one schema can express that."""
    values = [_values(option) for option in options]
    if all(found is not None for found in values):
        return _with_text({"enum": [value for found in values for value in found or ()], **notes})
    types = [option.get("type") for option in options]
    are_simple = all(set(option) - {"title"} <= _SIMPLE for option in options)
    if are_simple and len({"integer" if kind == "number" else str(kind) for kind in types}) == len(types):
        return as_written({**_merged(options), **notes}, tagged, is_whole)
    others = [as_written(option, tagged, is_whole) for option in options if option.get("type") != "null"]
    if len(others) < len(options) and len(others) == 1:
        return {**notes, "if": {"type": "null"}, "else": others[0]}
    return {**notes, "anyOf": [*others, *([{"type": "null"}] if len(others) < len(options) else [])]}


def _values(option: Mapping[str, Any]) -> list[object] | None:
    """Return the only values that fit; None if there are too many to list."""
    if option.get("type") == "null":
        return [None]
    values: list[object] | None = [option["const"]] if "const" in option else option.get("enum")
    return values


def _merged(options: Sequence[Mapping[str, Any]]) -> JsonSchema:
    merged: JsonSchema = {}
    for option in options:
        merged |= {name: value for name, value in option.items() if name != "title"}
    return {**merged, "type": [option["type"] for option in options]}


def _with_text(schema: JsonSchema) -> JsonSchema:
    """Return a schema that also takes text which is read as such a value, and interpolations."""
    if "const" in schema or "enum" in schema:
        notes, rest = notes_of(schema), {name: schema[name] for name in ("const", "enum") if name in schema}
        return {"anyOf": [rest, {"type": "string", "pattern": INTERPOLATION}], **notes}
    if "type" not in schema:
        return schema
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "string" in types and "pattern" not in schema:
        # A number in a field for text keeps the characters that are written.
        return {**schema, "type": [*types, *(["number"] if "number" not in types else [])]}
    forms = [_TEXT_FORMS[kind] for kind in types if kind in _TEXT_FORMS]
    given = [schema["pattern"]] if "pattern" in schema else []
    if types == ["null"]:
        return schema
    rule = {} if given else {"patternErrorMessage": f"must be {' or '.join(_WORDS[kind] for kind in types)}"}
    others = ["string"] if "string" not in types else []
    return {**schema, "type": [*types, *others], "pattern": "|".join([*given, *forms, INTERPOLATION]), **rule}


def notes_of(schema: Mapping[str, Any]) -> JsonSchema:
    """Return the part that does not restrict the values."""
    return {name: schema[name] for name in ("description", "default", "deprecated", "examples") if name in schema}


def with_shared(definitions: Mapping[str, JsonSchema]) -> dict[str, JsonSchema]:
    """Return definitions in which a field that several of them have stands once, beside them."""
    uses: dict[str, int] = {}
    for schema in definitions.values():
        for field in schema.get("properties", {}).values():
            uses[json.dumps(field)] = uses.get(json.dumps(field), 0) + 1
    names: dict[str, str] = {}
    result: dict[str, JsonSchema] = {}
    for name, schema in definitions.items():
        fields = dict(schema.get("properties", {}))
        for key, field in fields.items():
            text = json.dumps(field)
            if len(text) > _SHORT and uses[text] > 1:
                names.setdefault(text, f"field.{key}.{len(names)}")
                fields[key] = {"$ref": REFERENCE + names[text]}
        result[name] = {**schema, "properties": fields} if fields else schema
    return {**result, **{name: json.loads(text) for text, name in names.items()}}
