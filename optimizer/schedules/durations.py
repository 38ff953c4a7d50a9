"""Fields for durations in a run: in updates, in epochs ("10ep"), or as a share of the run ("5%")."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

from ..config.errors import refusal
from ..config.fields import Count, PositiveCount
from .horizon import Horizon

_RELATIVE = re.compile(r"(\d+(?:\.\d+)?) ?(ep|%)")


class RelativeDuration(str):
    """A duration that needs a horizon to be a number of updates: "10ep" or "5%"."""

    def updates(self, horizon: Horizon | None, field: str, steps_per_epoch: int | None = None) -> int:
        """Return the duration in updates, rounded.

        Args:
            horizon: The length of the run; None if it is unknown.
            field: The field with this duration, for the error.
            steps_per_epoch: Updates in an epoch. If omitted, the horizon's.

        Raises:
            ValidationError: At `field`, if the length of the run or of an epoch is unknown.
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


def updates_of(duration: int, horizon: Horizon | None, field: str) -> int:
    """Return a duration in updates: a number as it is, a share or epochs of the run by `horizon`.

    Raises:
        ValidationError: At `field`, if the length of the run or of an epoch is needed and unknown.
    """
    return duration.updates(horizon, field) if isinstance(duration, RelativeDuration) else duration


def all_resolved(*durations: int | None) -> bool:
    """Return whether all `durations` are numbers of updates."""
    return all(isinstance(duration, int) for duration in durations)


def _read_duration(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, str) and (match := _RELATIVE.fullmatch(value)):
        if match[2] == "%" and float(match[1]) > 100:
            raise PydanticCustomError("share", "must be at most the whole run, 100%")
        return RelativeDuration(value)
    if isinstance(value, str) and not value.isdigit():
        raise PydanticCustomError(
            "length", 'must be a number of updates, of epochs as in "10ep", or a share as in "5%"'
        )
    return handler(value)


def _json_schema(minimum: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": f"^{_RELATIVE.pattern}$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": minimum}, text]})


_unchanged = PlainSerializer(lambda value: value, return_type=Any)

# To a type checker a duration is an int, as it is after `Schedule.resolved`. Before, it may be a RelativeDuration, with
# which arithmetic raises.
Duration = Annotated[Count, WrapValidator(_read_duration), _unchanged, _json_schema(0)]
"""A field for a number of updates from 0, or a share or epochs of the run, which `Schedule.resolved` makes a number."""
PositiveDuration = Annotated[PositiveCount, WrapValidator(_read_duration), _unchanged, _json_schema(1)]
"""A `Duration` of at least one update."""
RunLength = Annotated[PositiveDuration | None, BeforeValidator(lambda value: None if value == "auto" else value)]
"""A field for the length of the run. None or "auto": filled in by `Schedule.resolved` if it is the `length_field`."""
