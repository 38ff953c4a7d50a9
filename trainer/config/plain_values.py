"""The values that a config can hold: text, numbers, true, false, null, lists, and mappings with text keys."""

import os
import re
from collections.abc import Mapping
from typing import Any

from optimizer.config import shown, shown_value

NODES = 100_000
"""Values in a config at most, each alias counted as all that it stands for."""
DEPTH = 64
"""Lists and mappings inside each other at most."""
_BITS = 1023
"""Of a whole number: more do not fit into a float."""
_DIGITS = 400
"""Characters of a number at most."""
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]*[0-9]")
_OTHER_BASES = re.compile(r"[-+]?0(x[0-9a-fA-F]+|o[0-7]+)")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_REMEDY = "A config holds text, numbers, true, false, null, lists, and mappings with text keys."


class Budget:
    """Counts the values of a config. Raises ValueError for too many, and for too deep a nesting."""

    def __init__(self) -> None:
        self.nodes = 0

    def spend(self, nodes: int, depth: int) -> None:
        self.nodes += nodes
        if self.nodes > NODES:
            raise ValueError(f"holds more than {NODES:,} values, with each alias counted as all that it stands for")
        if depth > DEPTH:
            raise ValueError(f"is nested more than {DEPTH} levels deep")


def read_word(text: str) -> Any:
    """Return what unquoted `text` means by the core schema of YAML 1.2: null, a boolean, a number, or itself.

    Raises ValueError for a number that is too large, and for one with leading zeros, which readers take differently.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _WHOLE.fullmatch(text):
        return _whole(text, 10)
    if _LEADING_ZERO.fullmatch(text):
        digits = text.lstrip("+-0_") or "0"
        raise ValueError(
            f"a number with leading zeros, which YAML 1.1 takes as octal; got {shown(text)}."
            f" Write {shown(digits)}, or '{shown(text)}' in quotes for text, or 0o… for octal."
        )
    if _OTHER_BASES.fullmatch(text):
        return _whole(text, 0)
    if _REAL.fullmatch(text):
        return _real(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def json_whole(text: str) -> int:
    """Return the whole number in JSON. Raises ValueError if it is too large."""
    return _whole(text, 10)


def json_real(text: str) -> float:
    """Return the number with a point or an exponent in JSON. Raises ValueError if it is too large."""
    return _real(text)


def plain(value: Any, path: str = "") -> Any:
    """Return a copy of `value` that holds plain values only, and no list or mapping twice.

    Numbers and text of other types (numpy's and torch's scalars, paths) become plain; so do tuples and mappings.
    path: where `value` stands, for messages. Raises ValueError for anything else.
    """
    return _copied(value, path, Budget(), 0)


def _copied(value: Any, path: str, budget: Budget, depth: int) -> Any:
    try:
        budget.spend(1, depth)
        if value is None or isinstance(value, bool | int | float | str | os.PathLike) or _is_scalar(value):
            return _scalar(value)
    except ValueError as error:
        raise ValueError(f"{path or 'the config'}: {error}") from None
    if isinstance(value, Mapping):
        copy = {}
        for key, item in value.items():
            inside = _join(path, key)
            if not isinstance(key, str):
                raise ValueError(f"{inside}: a key must be text; got {shown_value(key)}. {_REMEDY}")
            copy[_text(key, inside)] = _copied(item, inside, budget, depth + 1)
        return copy
    if isinstance(value, list | tuple):
        return [_copied(item, _join(path, index), budget, depth + 1) for index, item in enumerate(value)]
    raise ValueError(f"{path or 'the config'}: got a {type(value).__name__}, {shown_value(value)}. {_REMEDY}")


def _scalar(value: Any) -> Any:
    """Return a scalar as None, bool, int, float or str. Raises ValueError, of which the path is not known."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if value.bit_length() > _BITS:
            raise ValueError(f"a whole number of {value.bit_length()} bits is too large; at most {_BITS} fit")
        return int(value)
    if isinstance(value, float):
        return float(value)
    try:
        inner = os.fspath(value) if isinstance(value, os.PathLike) else value.item()
    except Exception as error:  # of whatever library it is from
        raise ValueError(f"got a {type(value).__name__} without a value: {error}") from error
    if not isinstance(inner, bool | int | float | str):
        raise ValueError(f"got a {type(value).__name__} of {shown_value(inner)}. {_REMEDY}")
    return _scalar(inner)


def _is_scalar(value: Any) -> bool:
    """Return whether `value` is a number of numpy, torch or the like: an array without dimensions."""
    return getattr(value, "shape", None) == () and callable(getattr(value, "item", None))


def _text(text: str, path: str = "") -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        where = f"{path}: " if path else ""
        raise ValueError(f"{where}text must be Unicode that UTF-8 can hold; got {shown_value(text)}") from None
    return str.__str__(text)


def _whole(text: str, base: int) -> int:
    if len(text) > _DIGITS or (number := int(text.replace("_", ""), base)).bit_length() > _BITS:
        raise ValueError(f"a whole number of {len(text)} characters is too large; got {shown(text)}")
    return number


def _real(text: str) -> float:
    number = float(text.replace("_", "")) if len(text) <= _DIGITS else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number does not fit into a float; got {shown(text)}")
    return number


def _join(path: str, part: Any) -> str:
    name = shown(part) if isinstance(part, str) else shown_value(part)
    return f"{path}.{name}" if path else name
