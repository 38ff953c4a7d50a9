"""JSON that every reader accepts: NaN and infinity, which JSON lacks, are written as tagged objects."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

_TAG = "nonfinite"
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode_json(values: object, indent: int | None = None) -> str:
    """Return plain values as JSON; a float that is NaN or infinite becomes `{"nonfinite": "nan"}` (or inf, -inf).

    Raises:
        TypeError: A value is not plain.
    """
    try:
        return json.dumps(values, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_with_tags(values), indent=indent, allow_nan=False)


def decode_json(text: str | bytes) -> Any:
    """Return the plain values that `encode_json` wrote, or any other JSON.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_hook=_replace_tag)


def encode_line(line: Mapping[str, object]) -> str:
    """Return a flat object as one line of JSON.

    Values that are NaN or infinite become null, and `nonfinite` maps their names to "nan", "inf" or "-inf".
    """
    words = {
        name: _word(value) for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)
    }
    if words:
        line = {**line, **dict.fromkeys(words), _TAG: words}
    return json.dumps(line, allow_nan=False)


def decode_line(text: str | bytes) -> Any:
    """Return the object that `encode_line` wrote, or any other JSON.

    In older lines `nonfinite` is a list of names: those values are NaN.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: It is nested too deeply.
    """
    line = json.loads(text)
    if isinstance(line, dict) and isinstance(line.get(_TAG), list | dict):
        words = line.pop(_TAG)
        if isinstance(words, list):
            words = dict.fromkeys((name for name in words if isinstance(name, str)), "nan")
        line |= {name: _WORDS[word] for name, word in words.items() if name in line and _is_word(word)}
    return line


def _with_tags(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: _word(value)}
    if isinstance(value, Mapping):
        return {key: _with_tags(item) for key, item in value.items()}
    return [_with_tags(item) for item in value] if isinstance(value, list | tuple) else value


def _replace_tag(found: dict[str, object]) -> object:
    word = found.get(_TAG)
    return _WORDS[word] if len(found) == 1 and _is_word(word) else found


def _word(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _is_word(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value in _WORDS
