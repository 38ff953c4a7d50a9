"""Reads JSON with the place of each key and item, which Python's reader does not give."""

import json
import re

from .places import Path, Place
from .plain_values import Budget, Plain, plain, read_real, read_whole
from .syntax import MalformedError, json_mistake

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def read_placed_json(text: str, source: str) -> tuple[Plain, dict[Path, Place]]:
    """Return the value of a JSON document, and the place of the whole and of each key and item in it.

    Args:
        text: The document.
        source: Its name in the places.

    Raises:
        MalformedError: The text is not well-formed, or a number is too large, or a mapping has a key twice.
        ValueError: Text is not Unicode. The message begins with its path.
    """
    try:
        json.loads(text, parse_int=len, parse_float=len)
    except json.JSONDecodeError as error:
        raise json_mistake(error) from error
    except RecursionError as error:
        raise MalformedError("is nested too deeply", 1, 1) from error
    places = _Walk(text, source).places
    return plain(json.loads(text, parse_int=read_whole, parse_float=read_real)), places


class _Walk:
    """Walks over the tokens of a text. `_open` has the key, or the index, that comes next in each list and mapping."""

    def __init__(self, text: str, source: str) -> None:
        self.places: dict[Path, Place] = {}
        self._source = source
        self._budget = Budget()
        self._open: list[str | int | None] = []
        self._line, self._line_start, self._counted = 1, 0, 0
        previous = ""
        for found in _TOKEN.finditer(text):
            self._go_to(text, found.start())
            try:
                self._take(found[0], previous, found.start())
            except ValueError as error:
                column = found.start() - self._line_start + 1
                raise MalformedError(str(error), self._line, column) from error
            previous = found[0]

    def _go_to(self, text: str, offset: int) -> None:
        breaks = text.count("\n", self._counted, offset)
        if breaks:
            self._line += breaks
            self._line_start = text.rfind("\n", 0, offset) + 1
        self._counted = offset

    def _take(self, token: str, previous: str, offset: int) -> None:
        if token in ("}", "]"):
            self._open.pop()
        elif token == ",":
            last = self._open[-1]
            self._open[-1] = last + 1 if isinstance(last, int) else None
        elif token != ":":
            self._take_value_or_key(token, previous, offset)

    def _take_value_or_key(self, token: str, previous: str, offset: int) -> None:
        is_key = bool(self._open) and self._open[-1] is None
        self._budget.spend(0 if is_key else 1, len(self._open))
        if is_key:
            self._open[-1] = json.loads(token, strict=False)
        path = tuple(map(str, self._open))
        column = offset - self._line_start + 1
        if is_key and path in self.places:
            raise ValueError(f"the key {path[-1][:60]!r} is given twice")
        if previous != ":":
            self.places[path] = Place(self._source, self._line, column, _number(token))
        elif number := _number(token):
            key = self.places[path]
            self.places[path] = Place(key.source, key.line, key.column, number)
        if token in ("{", "["):
            self._open.append(None if token == "{" else 0)


def _number(token: str) -> str | None:
    """Return the token if it is a number. Raises ValueError if it is too large."""
    if token[0] not in "-0123456789" or token == "-Infinity":
        return None
    if token.removeprefix("-").isdigit():
        read_whole(token)
    else:
        read_real(token)
    return token
