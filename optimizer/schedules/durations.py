"""Lengths of parts of a run: in updates, in epochs ("10ep"), or as a share of the run ("5%")."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

from ..config.validation import Count, PositiveCount, refusal
from .horizon import Horizon

_RELATIVE = re.compile(r"(\d+(?:\.\d+)?) ?(ep|%)")


class RelativeDuration(str):
    """A length relative to the run: "10ep" or "5%"."""

    def updates(self, horizon: Horizon | None, field: str, steps_per_epoch: int | None = None) -> int:
        """Return the length in updates, rounded.

        Args:
            horizon: The length of the run; None if it is unknown.
            field: The field that holds this length, for the error.
            steps_per_epoch: Updates in an epoch; it precedes the horizon's number.

        Raises:
            ValidationError: At `field`, if the length that this one is relative to is unknown.
        """
        match = _RELATIVE.fullmatch(self)
        assert match, "validated when it was read"
        whole = None if horizon is None else horizon.total_steps
        if match[2] == "ep":
            whole = steps_per_epoch or (None if horizon is None else horizon.steps_per_epoch)
        if whole is None:
            missing = "Horizon(total_steps, steps_per_epoch)" if match[2] == "ep" else "Horizon(total_steps)"
            raise refusal(f"{self} needs the length of the run; build(params, horizon={missing})", (field,), self)
        return round(float(match[1]) * whole / (1 if match[2] == "ep" else 100))


def all_resolved(*lengths: int | None) -> bool:
    """Return whether all `lengths` are numbers of updates."""
    return all(isinstance(length, int) for length in lengths)


def _parse_length(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, str) and (match := _RELATIVE.fullmatch(value)):
        if match[2] == "%" and float(match[1]) > 100:
            raise PydanticCustomError("share", "must be at most the whole run, 100%")
        return RelativeDuration(value)
    if isinstance(value, str) and not value.isdigit():
        raise PydanticCustomError(
            "length", 'must be a number of updates, of epochs as in "10ep", or a share as in "5%"'
        )
    return handler(value)


def _length_schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^{_RELATIVE.pattern}$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum}, text]})


# To the type checker a length is a number, as it is after `Schedule.resolved`. Before, it may be a RelativeDuration,
# a str, with which arithmetic raises.
_unchanged = PlainSerializer(lambda value: value, return_type=Any)
Length = Annotated[Count, WrapValidator(_parse_length), _unchanged, _length_schema(0)]
PositiveLength = Annotated[PositiveCount, WrapValidator(_parse_length), _unchanged, _length_schema(1)]
RunLength = Annotated[PositiveLength | None, BeforeValidator(lambda value: None if value == "auto" else value)]
