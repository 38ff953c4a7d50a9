"""Validation errors: how they are made, moved to another path, and shown as path, rule, value, remedy."""

import re
from collections.abc import Callable, Sequence
from itertools import islice

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from .messages import MOST, counted, listed, nearest, shown_name, shown_value
from .rules import in_yaml, remedy_of, rule_of
from .synonyms import synonym

UNKNOWN_KEY = "unknown_key"
"""The type of the error that a key, or a dotted path, leads to no class. Its value is the key."""

UNKNOWN_NAME = "unknown_name"
"""The type of the error that a mapping has no field of this name."""
_WITH_VALUE = ("rule", UNKNOWN_KEY, UNKNOWN_NAME, "extra_forbidden", "missing", "value_error")
"""Types of errors whose message already contains the value where it helps."""
_FIELDS = 12
"""The most fields that the message about an unknown name lists."""

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
        _line(detail["type"], _rule(detail), detail["loc"], detail["input"])
        for detail in error.errors(include_url=False)
        if keep(detail)
    ]
    return ValidationError.from_exception_data(error.title, lines)


def together(first: ValidationError, second: ValidationError) -> ValidationError:
    """Return one error with the details of both."""
    lines = [
        _line(detail["type"], _rule(detail), detail["loc"], detail["input"])
        for error in (first, second)
        for detail in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(first.title, lines)


def reworded(error: ValidationError, message_of: Callable[[ErrorDetails], str | None]) -> ValidationError:
    """Return `error` with the messages that `message_of` returns for its details; None: a message stays."""
    lines = [
        _line(detail["type"], message_of(detail) or _rule(detail), detail["loc"], detail["input"])
        for detail in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, lines)


def explain(error: ValidationError) -> list[str]:
    """Return one line an error: path, rule, value given. What a field of several types allows is one line."""
    lines: dict[str, list[tuple[str, str]]] = {}
    for detail in error.errors(include_url=False):
        where = ".".join(map(shown_name, path_of(detail)))
        rule = _rule(detail)
        value = "" if detail["type"] in _WITH_VALUE else _value(detail, rule)
        at_path = lines.setdefault(where, [])
        if at_path and value and at_path[-1][1] and rule.startswith("must be "):
            if rule.removeprefix("must be ") in at_path[-1][0]:
                continue
            at_path[-1] = (f"{at_path[-1][0]}, or {rule.removeprefix('must be ')}", value)
        else:
            at_path.append((rule, value))
    return [
        f"{where}: {rule}{value}" if where else rule + value for where, each in lines.items() for rule, value in each
    ]


def path_of(detail: ErrorDetails) -> tuple[str | int, ...]:
    """Return the path of an error in the config: pydantic adds the member of a union that it tried."""
    return tuple(part for part in detail["loc"] if not _is_union_member(part))


def _value(detail: ErrorDetails, rule: str) -> str:
    value = detail["input"]
    return f"; got {in_yaml(value) or shown_value(value)}{remedy_of(detail['type'], rule, value)}"


def _rule(detail: ErrorDetails) -> str:
    return rule_of(detail["type"], detail["msg"], detail.get("ctx", {}))


def _is_union_member(part: str | int) -> bool:
    """Return whether pydantic added this to a path to name the member of a union that it tried."""
    return isinstance(part, str) and (
        _UNION_MEMBER.match(part) is not None or part in ("bool", "int", "float", "str", "none")
    )


def _rebuilt(
    error: ValidationError, prefix: Sequence[str | int], fields: Sequence[str] | None = None
) -> ValidationError:
    lines: list[InitErrorDetails] = []
    for detail in islice(error.errors(include_url=False), MOST):
        kind, message, path = detail["type"], _rule(detail), detail["loc"]
        if kind == "missing" and path and isinstance(path[-1], int) and "message" not in detail.get("ctx", {}):
            message = f"must have at least {counted(path[-1] + 1, 'item')}; got {shown_value(detail['input'])}"
            kind, path = "rule", path[:-1]
            if lines and lines[-1].get("loc") == (*prefix, *path):  # the last one that is missing is enough
                lines.pop()
        if fields is not None and kind == "extra_forbidden" and len(path) == 1:
            kind, message = UNKNOWN_NAME, _unknown_name(str(path[0]), fields)
        lines.append(_line(kind, message, (*prefix, *path), detail["input"]))
    if (more := error.error_count() - MOST) > 0:
        lines.append(_line("rule", f"{more:,} more mistakes", prefix, None))
    return ValidationError.from_exception_data(error.title, lines)


def _unknown_name(name: str, fields: Sequence[str]) -> str:
    """Return the message that a mapping with `fields` has no field `name`."""
    ours = synonym(name, fields)
    meant = nearest(name, fields) if ours is None else f"; did you mean {ours!r}?"
    inside = " Parameters of the class belong in params." if "params" in fields and ours is None else ""
    if meant != "." and len(fields) > _FIELDS:
        return f"unknown name{meant}{inside}"
    return f"unknown name{meant} Known: {listed(fields, _FIELDS)}{'.' if inside else ''}{inside}"


def _line(kind: str, message: str, path: Sequence[str | int], value: object) -> InitErrorDetails:
    # The message is a value of the template, so that pydantic leaves its braces alone.
    template = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=template, loc=tuple(path), input=value)
