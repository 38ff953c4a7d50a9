"""Validation errors: how they are made, moved to another path, and shown as path, rule, value, remedy."""

import re
from collections.abc import Callable, Sequence
from itertools import islice

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from .messages import MOST, listed, nearest, shown, shown_value

UNKNOWN_KEY = "unknown_key"
"""The type of the error that a key, or a dotted path, leads to no class. Its value is the key."""

TOO_LARGE = "must be a whole number of 64 bits, at most 2^63 - 1"

_RULES = {
    "bool_type": "must be true or false, without quotes",
    "bool_parsing": "must be true or false, without quotes",
    "int_parsing_size": TOO_LARGE,
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "path_type": "must be a path, as text",
}
"""The rule that a message gives for an error of pydantic's, by the error's type."""

_WITH_VALUE = ("rule", UNKNOWN_KEY, "unknown_name", "missing", "value_error")
"""Types of errors whose message already contains the value where it helps."""

_UNION_MEMBER = re.compile(r"(list|dict|tuple|set|frozenset|literal|is-instance|(function|constrained|lax)-[a-z-]+)\[")


def refusal(rule: str, path: Sequence[str | int] = (), value: object = None, kind: str = "rule") -> ValidationError:
    """Return a ValidationError at `path`.

    Args:
        rule: The whole message, with value and remedy.
        path: Names of fields and indices of list items, from the outermost.
        value: The value that breaks the rule.
        kind: The type of the error.
    """
    return ValidationError.from_exception_data("config", [_line(kind, rule, path, value)])


def nest(error: ValidationError, prefix: Sequence[str | int]) -> ValidationError:
    """Return `error` with every path in it moved below `prefix`."""
    return _rebuilt(error, prefix)


def suggest_names(error: ValidationError, fields: Sequence[str]) -> ValidationError:
    """Return `error` with each unknown name followed by the nearest ones of `fields`."""
    return _rebuilt(error, (), fields)


def filtered(error: ValidationError, keep: Callable[[ErrorDetails], bool]) -> ValidationError:
    """Return `error` with those of its details for which `keep` returns true."""
    lines = [
        _line(detail["type"], detail["msg"], detail["loc"], detail["input"])
        for detail in error.errors()
        if keep(detail)
    ]
    return ValidationError.from_exception_data(error.title, lines)


def explain(error: ValidationError) -> list[str]:
    """Return one line an error: path, rule, value given."""
    lines = []
    for detail in error.errors():
        path = ".".join(shown(part) or "''" for part in detail["loc"] if not _is_union_member(part))
        message = detail["msg"].removeprefix("Value error, ")
        message = message.replace("Input should", "must").replace("Field required", "required, but not given")
        message = _RULES.get(detail["type"], message)
        where = f"{path}: " if path else ""
        value = "" if detail["type"] in _WITH_VALUE else f"; got {shown_value(detail['input'])}"
        lines.append(f"{where}{message}{value}")
    return lines


def _is_union_member(part: str | int) -> bool:
    """Return whether pydantic added this to a path to name the member of a union that it tried."""
    return isinstance(part, str) and (
        _UNION_MEMBER.match(part) is not None or part in ("bool", "int", "float", "str", "none")
    )


def _rebuilt(
    error: ValidationError, prefix: Sequence[str | int], fields: Sequence[str] | None = None
) -> ValidationError:
    lines = []
    for detail in islice(error.errors(include_url=False), MOST):
        kind, message = detail["type"], detail["msg"]
        if fields is not None and kind == "extra_forbidden" and len(detail["loc"]) == 1:
            kind = "unknown_name"
            message = f"unknown name{nearest(str(detail['loc'][0]), fields)} Known: {listed(fields)}"
            if "params" in fields:
                message += ". Parameters of the class belong in params."
        lines.append(_line(kind, message, (*prefix, *detail["loc"]), detail["input"]))
    if (more := error.error_count() - MOST) > 0:
        lines.append(_line("rule", f"{more:,} more mistakes", prefix, None))
    return ValidationError.from_exception_data(error.title, lines)


def _line(kind: str, message: str, path: Sequence[str | int], value: object) -> InitErrorDetails:
    # The message is a value of the template, so that pydantic leaves its braces alone.
    template = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=template, loc=tuple(path), input=value)
