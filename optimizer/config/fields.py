"""Types of fields: numbers within a range, which do not take true and false for 1 and 0."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from .rules import TOO_LARGE

T = TypeVar("T")

FieldDefinitions = dict[str, Any]
"""Fields by name as pydantic's `create_model` takes them: a type, and a `Field` or a default."""


def _refuse_bool(value: T) -> T:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number, not true or false")
    return value


def _check_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise PydanticCustomError("whole_size", TOO_LARGE)
    return value


Number = Annotated[float, BeforeValidator(_refuse_bool)]
Whole = Annotated[int, AfterValidator(_check_64_bits), BeforeValidator(_refuse_bool)]
PositiveNumber = Annotated[float, Field(gt=0), BeforeValidator(_refuse_bool)]
NonNegativeNumber = Annotated[float, Field(ge=0), BeforeValidator(_refuse_bool)]
PositiveFraction = Annotated[float, Field(gt=0, le=1), BeforeValidator(_refuse_bool)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_refuse_bool)]
Beta = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_refuse_bool)]
PositiveBeta = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_refuse_bool)]
Count = Annotated[int, Field(ge=0), AfterValidator(_check_64_bits), BeforeValidator(_refuse_bool)]
PositiveCount = Annotated[int, Field(ge=1), AfterValidator(_check_64_bits), BeforeValidator(_refuse_bool)]
