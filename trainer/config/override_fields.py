"""Finds out how a field of a config takes the text of an override: as it was typed, as a switch, or as an item."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from .kinds import allowed_kinds, kinds_inside
from .path_values import is_path
from .plain_values import read_word

_TEXT = (str, Path, os.PathLike)


class FieldsOf:
    """The fields in configs of a class."""

    def __init__(self, model: type[BaseModel], prepare: Callable[[Mapping[str, object]], None] | None = None) -> None:
        """Make the fields of `model`. `prepare` is called with a config before fields of it are looked up."""
        self._model = model
        self._prepare = prepare

    def kinds_at(self, config: Mapping[str, object], path: Sequence[str]) -> list[object]:
        """Return the kinds of value that the field which `path` leads to may have; none if there is no such field."""
        if self._prepare is not None:
            self._prepare(config)
        kinds: list[object] = [self._model]
        place: object = config
        for part in path:
            kinds = [kind for outer in kinds for kind in kinds_inside(outer, part, place)]
            place = _inside(place, part)
        return kinds

    def takes_text(self, config: Mapping[str, object], path: Sequence[str], text: str) -> bool:
        """Return whether the field takes `text` as it was typed.

        In a field that may be null, null and ~ are null. In one that takes text or a mapping, { begins a mapping.
        """
        kinds = self.kinds_at(config, path)
        if NoneType in kinds and _is_null(text):
            return False
        others = [kind for kind in kinds if kind is not NoneType]
        models = [kind for kind in others if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if models and text.startswith("{"):
            return False
        return bool(others) and all(_is_text(kind) for kind in others)

    def is_switch(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field may be true, or is not known, which is reported later."""
        kinds = self.kinds_at(config, path)
        return not kinds or bool in kinds

    def takes_items(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field takes a list of text, and no text."""
        kinds = self.kinds_at(config, path)
        lists = [kind for kind in kinds if get_origin(kind) in (list, Sequence)]
        return any(str in allowed_kinds(get_args(kind)[0]) for kind in lists) and not any(map(_is_text, kinds))

    def may_take_path(self, config: Mapping[str, object], path: Sequence[str]) -> bool:
        """Return whether the field takes the path of a file, or is not known, which is reported later."""
        kinds = self.kinds_at(config, path)
        return not kinds or any(kind is Any or is_path(kind) for kind in kinds)

    def default_at(self, config: Mapping[str, object], path: Sequence[str]) -> object:
        """Return the plain default of the field; None if it has none."""
        for kind in self.kinds_at(config, path[:-1]):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                for name, field in kind.model_fields.items():
                    if path[-1] == (field.alias or name) and not field.is_required():
                        default = field.get_default(call_default_factory=True)
                        return default if isinstance(default, list) else None
        return None


def _inside(place: object, part: str) -> object:
    if isinstance(place, list):
        return place[int(part)] if part.isdecimal() and int(part) < len(place) else None
    return place.get(part) if isinstance(place, Mapping) else None


def _is_null(text: str) -> bool:
    try:
        return read_word(text) is None
    except ValueError:
        return False


def _is_text(kind: object) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return isinstance(kind, type) and (kind in _TEXT or getattr(kind, "from_text", False) is True)
