"""JSON that every reader takes: NaN and infinity, which JSON does not have, are written in a form of ours."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

_TAG = "nonfinite"
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encoded(values: Any, indent: int | None = None) -> str:
    """Return plain values as JSON; a float that is NaN or infinite becomes `{"nonfinite": "nan"}` (or inf, -inf).

    Raises TypeError for what is not plain.
    """
    try:
        return json.dumps(values, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_tagged(values), indent=indent, allow_nan=False)


def decoded(text: str | bytes) -> Any:
    """Return the plain values that `encoded` wrote, or any other JSON. Raises ValueError, RecursionError."""
    return json.loads(text, object_hook=_untagged)


def encoded_line(line: Mapping[str, Any]) -> str:
    """Return a flat object as one line of JSON.

    Values that are NaN or infinite are null, and `nonfinite` says by name what each was: "nan", "inf" or "-inf".
    """
    words = {
        name: _word(value) for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)
    }
    if words:
        line = {**line, **dict.fromkeys(words), _TAG: words}
    return json.dumps(line, allow_nan=False)


def decoded_line(text: str | bytes) -> Any:
    """Return what `encoded_line` wrote, or any other JSON. Raises ValueError, RecursionError.

    Older lines list the names alone: those values are NaN.
    """
    line = json.loads(text)
    if isinstance(line, dict) and isinstance(line.get(_TAG), list | dict):
        words = line.pop(_TAG)
        if isinstance(words, list):
            words = dict.fromkeys((name for name in words if isinstance(name, str)), "nan")
        line |= {name: _WORDS[word] for name, word in words.items() if name in line and _is_word(word)}
    return line


def _tagged(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: _word(value)}
    if isinstance(value, Mapping):
        return {key: _tagged(item) for key, item in value.items()}
    return [_tagged(item) for item in value] if isinstance(value, list | tuple) else value


def _untagged(found: dict[str, Any]) -> Any:
    word = found.get(_TAG)
    return _WORDS[word] if len(found) == 1 and _is_word(word) else found


def _word(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _is_word(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value in _WORDS
