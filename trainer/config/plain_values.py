"""The values that a config can hold: text, numbers, true, false, null, lists, and mappings with text keys."""

import os
import re
from collections.abc import Mapping
from typing import TypeAlias, Union

from optimizer.config import shown, shown_value

Plain: TypeAlias = Union[None, bool, int, float, str, list["Plain"], dict[str, "Plain"]]  # noqa: UP007 it is recursive
"""A value that a config can hold."""

NODES = 100_000
"""Values in a config at most, each alias counted with all the values that it stands for."""
DEPTH = 64
"""Lists and mappings inside each other at most."""
_BITS = 1023
"""Of a whole number: more do not fit into a float."""
_DIGITS = 400
"""Characters of a number at most."""
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]*[0-9]")
_OTHER_BASES = re.compile(r"[-+]?0(x[0-9a-fA-F]+|o[0-7]+)")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_REMEDY = "A config holds text, numbers, true, false, null, lists, and mappings with text keys."


class Budget:
    """Counts the values of a config.

    Attributes:
        nodes: The number of values up to now.
        deepest: The greatest depth of one of them.
    """

    def __init__(self) -> None:
        self.nodes = 0
        self.deepest = 0

    def spend(self, nodes: int, depth: int) -> None:
        """Count `nodes` values, the deepest of which is at `depth`.

        Raises:
            ValueError: There are too many values, or they are nested too deeply.
        """
        self.nodes += nodes
        self.deepest = max(self.deepest, depth)
        if self.nodes > NODES:
            raise ValueError(f"holds more than {NODES:,} values, with each alias counted as all that it stands for")
        if depth > DEPTH:
            raise ValueError(f"is nested more than {DEPTH} levels deep")


def read_word(text: str) -> bool | int | float | str | None:
    """Return the value of unquoted `text` by the core schema of YAML 1.2: null, a boolean, a number, or the text.

    Raises:
        ValueError: The number is too large, or has leading zeros, which readers of YAML take differently.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _WHOLE.fullmatch(text):
        return read_whole(text, 10)
    if _LEADING_ZERO.fullmatch(text):
        digits = text.lstrip("+-0_") or "0"
        raise ValueError(
            f"a number with leading zeros, which YAML 1.1 takes as octal; got {shown(text)}."
            f" Write {shown(digits)}, or '{shown(text)}' in quotes for text, or 0o… for octal."
        )
    if _OTHER_BASES.fullmatch(text):
        return read_whole(text, 0)
    if _REAL.fullmatch(text):
        return read_real(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_whole(text: str, base: int = 10) -> int:
    """Return the whole number that `text` is. Raises ValueError if it is too large."""
    if len(text) > _DIGITS or (number := int(text.replace("_", ""), base)).bit_length() > _BITS:
        raise ValueError(f"a whole number of {len(text)} characters is too large; got {shown(text)}")
    return number


def read_real(text: str) -> float:
    """Return the number with a point or an exponent that `text` is. Raises ValueError if it is too large."""
    number = float(text.replace("_", "")) if len(text) <= _DIGITS else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number does not fit into a float; got {shown(text)}")
    return number


def plain(value: object, path: str = "") -> Plain:
    """Return a copy of `value` that holds plain values only, and no list or mapping twice.

    Numbers and text of other types (numpy's and torch's scalars, paths) become plain, as do tuples and mappings.

    Args:
        value: Any value.
        path: The place of `value` in the config, for messages.

    Raises:
        ValueError: `value` holds another type, or is too large or too deep. The message begins with the path.
    """
    place: list[object] = []
    try:
        return _copy(value, place, Budget())
    except ValueError as error:
        names = [shown(part) if isinstance(part, str) else shown_value(part) for part in place]
        where = ".".join([path, *names] if path else names)
        raise ValueError(f"{where or 'the config'}: {error}") from None


def encodable(text: str) -> str:
    """Return `text` as a str. Raises ValueError if it holds half a character, which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"text must be Unicode that UTF-8 can hold; got {shown_value(text)}") from None
    return str.__str__(text)


def _copy(value: object, place: list[object], budget: Budget) -> Plain:
    """Return a plain copy. While it is made, `place` holds the keys and indices from the whole to `value`."""
    budget.spend(1, len(place))
    if isinstance(value, Mapping):
        mapping: dict[str, Plain] = {}
        for key, item in value.items():
            place.append(key)
            if not isinstance(key, str):
                raise ValueError(f"a key must be text; got {shown_value(key)}. {_REMEDY}")
            mapping[encodable(key)] = _copy(item, place, budget)
            place.pop()
        return mapping
    if isinstance(value, list | tuple):
        items: list[Plain] = []
        for index, item in enumerate(value):
            place.append(index)
            items.append(_copy(item, place, budget))
            place.pop()
        return items
    return _scalar(value)


def _scalar(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, int):
        if value.bit_length() > _BITS:
            raise ValueError(f"a whole number of {value.bit_length()} bits is too large; at most {_BITS} fit")
        return int(value)
    if isinstance(value, float):
        return float(value)
    inner = _inner_scalar(value)
    if not isinstance(inner, bool | int | float | str):
        raise ValueError(f"got a {type(value).__name__} of {shown_value(inner)}. {_REMEDY}")
    return _scalar(inner)


def _inner_scalar(value: object) -> object:
    """Return the text of a path, or the number of an array without dimensions, as numpy and torch have them."""
    item = getattr(value, "item", None)
    if not isinstance(value, os.PathLike) and not (getattr(value, "shape", None) == () and callable(item)):
        raise ValueError(f"got a {type(value).__name__}, {shown_value(value)}. {_REMEDY}")
    try:
        return os.fspath(value) if isinstance(value, os.PathLike) else item()  # type: ignore[misc]  # it is callable
    except Exception as error:  # of whatever library it is from
        raise ValueError(f"got a {type(value).__name__} without a value: {error}") from error
