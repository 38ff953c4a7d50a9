"""`Config`, the base class of everything that is read from a config."""

from typing import Any, NoReturn, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from .attribute_docs import attribute_docstring
from .errors import refusal, suggest_names
from .text_values import read_text_values


class Config(BaseModel):
    """A frozen pydantic model that accepts only its own fields and suggests the nearest name for any other."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_names(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(read_text_values(cls, data))
        except ValidationError as error:
            names = [field.alias or name for name, field in cls.model_fields.items()]
            raise suggest_names(error, names) from None

    @classmethod
    def model_rebuild(cls, *, _parent_namespace_depth: int = 0, **options: Any) -> bool | None:
        """Complete the class at its first use.

        Pydantic would look for names among the local variables of the first function that uses the class, and keep
        them, perhaps a model, alive as long as that function runs. The annotations here need no such names.
        """
        return super().model_rebuild(_parent_namespace_depth=0, **options)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        for name, field in handler.resolve_ref_schema(json_schema).get("properties", {}).items():
            if meaning := attribute_docstring(cls, name):
                field.setdefault("description", meaning)
        return json_schema

    def replaced(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated as a whole."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def refuse(self, field: str, rule: str) -> NoReturn:
        """Raise the ValidationError that `field` breaks `rule`; for validators that compare fields."""
        raise refusal(rule, (field,), getattr(self, field))
