"""A field that holds one of a registry's classes, written `{type: KEY, **fields}`."""

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from .arguments import construct
from .errors import UNKNOWN_KEY, refusal
from .messages import shown, shown_value
from .registry import Registry, UnknownKeyError
from .rules import in_yaml
from .validation import Config

REGISTRY_NOTE = "x-registry"
"""The keyword in a field's JSON schema that names the registry. What fields each class has is not in the schema."""


class TaggedField:
    """Reads `{type: KEY, **fields}` as the class registered under KEY, and writes the object back by its `config()`.

    Args:
        registry: The classes by key.
        base: The class that the values are instances of.
        example: A key, for messages.
    """

    def __init__(self, registry: Registry[Any], base: type[Config], example: str) -> None:
        self.registry = registry
        self._base = base
        self._example = example

    def read(self, value: object) -> object:
        """Return the object that `value` describes; `value` itself if it already is one.

        Raises:
            ValidationError: `value` has no valid `type`, or its fields are not valid.
        """
        if isinstance(value, self._base):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            example = shown(value) if isinstance(value, str) else self._example
            got = in_yaml(value) or shown_value(value)
            raise refusal(f"must be a mapping with a `type`, as in {{type: {example}}}; got {got}", value=value)
        fields = {name: field for name, field in value.items() if name != "type"}
        try:
            cls = self.registry[value["type"]]
        except UnknownKeyError as error:
            raise refusal(str(error), ("type",), value["type"], UNKNOWN_KEY) from None
        if not issubclass(cls, self._base):
            raise refusal(f"{value['type']} is not allowed here", ("type",), value["type"])
        return construct(cls, fields)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(lambda value: value and value.config())
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        allowed = [key for key, cls in sorted(self.registry.items()) if issubclass(cls, self._base)]
        keys = {"anyOf": [{"enum": allowed}, {"type": "string", "pattern": "[.]"}]}
        names = {"title": self.registry.name, REGISTRY_NOTE: self.registry.name}
        return {"type": "object", **names, "properties": {"type": keys}, "required": ["type"]}
