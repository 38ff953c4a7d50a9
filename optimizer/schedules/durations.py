"""Lengths of parts of a run: in updates, in epochs ("10ep"), or as a share of the run ("5%")."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

from ..config.validation import Count, PositiveCount, refusal
from .horizon import Horizon

_RELATIVE = re.compile(r"(\d+(?:\.\d+)?) ?(ep|%)")


class RelativeDuration(str):
    """A length that only a horizon makes a number of updates: "10ep" or "5%"."""

    def updates(self, horizon: Horizon | None, field: str, steps_per_epoch: int | None = None) -> int:
        """Return the length in updates, rounded. Raises ValidationError at `field` without what it refers to.

        steps_per_epoch: where it is known better than by the horizon.
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
    """Return whether all `lengths` are numbers of updates already."""
    return all(isinstance(length, int) for length in lengths)


def _read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str) and (match := _RELATIVE.fullmatch(value)):
        if match[2] == "%" and float(match[1]) > 100:
            raise PydanticCustomError("share", "must be at most the whole run, 100%")
        return RelativeDuration(value)
    if isinstance(value, str) and not value.isdigit():
        raise PydanticCustomError(
            "length", 'must be a number of updates, of epochs as in "10ep", or a share as in "5%"'
        )
    return handler(value)


def _schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^{_RELATIVE.pattern}$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum}, text]})


# To the type checker a length is a number, which it is once `Schedule.resolved` has seen the horizon; before
# that it may be a Relative, with which arithmetic fails loudly.
_as_it_is = PlainSerializer(lambda value: value, return_type=Any)
Length = Annotated[Count, WrapValidator(_read), _as_it_is, _schema(0)]
PositiveLength = Annotated[PositiveCount, WrapValidator(_read), _as_it_is, _schema(1)]
RunLength = Annotated[PositiveLength | None, BeforeValidator(lambda value: None if value == "auto" else value)]
