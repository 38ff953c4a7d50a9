"""Finds the fields of a config that take an override exactly as it was typed: those for text."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from optimizer import Registry, UnknownKeyError
from optimizer.config import TaggedField, arguments_model

from .class_choice import ClassChoice
from .overrides import TakesText
from .plain_values import read_word

T = TypeVar("T")
_TEXT = (str, Path, os.PathLike)


def text_fields(model: type[BaseModel]) -> TakesText:
    """Return whether a field in configs of `model` takes text as it was typed.

    In a field that may be null, null and ~ are null. In one that takes text or a mapping, { begins a mapping.
    """

    def takes_text(config: Mapping[str, object], path: Sequence[str], text: str) -> bool:
        kinds: list[object] = [model]
        place: object = config
        for part in path:
            kinds = [kind for outer in kinds for kind in _kinds_at(outer, part, place)]
            place = place.get(part) if isinstance(place, Mapping) else None
        return _take_text(kinds, text)

    return takes_text


def _take_text(kinds: Sequence[object], text: str) -> bool:
    """Return whether a field of one of these kinds takes `text` as it was typed."""
    if NoneType in kinds and _is_null(text):
        return False
    others = [kind for kind in kinds if kind is not NoneType]
    models = [kind for kind in others if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if models and text.startswith("{"):
        return False
    return bool(others) and all(_is_text(kind) for kind in others)


def _is_null(text: str) -> bool:
    try:
        return read_word(text) is None
    except ValueError:
        return False


def _is_text(kind: object) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return isinstance(kind, type) and (kind in _TEXT or getattr(kind, "from_text", False) is True)


def _kinds_at(kind: object, part: str, place: object) -> Iterator[object]:
    """Yield the kinds of value that may stand at `part` in a value of `kind`.

    Args:
        kind: A type, a `TaggedField`, or a generic alias.
        part: A name in the value.
        place: The value, as far as it is there.
    """
    if isinstance(kind, TaggedField):
        cls = _registered_class(kind.registry, place)
        yield from [str] if part == "type" else [] if cls is None else _kinds_at(cls, part, place)
    elif get_origin(kind) in (dict, Mapping):
        yield from _allowed_kinds(get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, ClassChoice) and part == "params":
        cls = _registered_class(kind.registry, place)
        yield from [] if cls is None else [arguments_model(cls)]
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part == (field.alias or name):
                yield from _allowed_kinds(field.annotation, field.metadata)


def _allowed_kinds(annotation: object, metadata: Sequence[object] = ()) -> Iterator[object]:
    """Yield the kinds of value that an annotation allows."""
    tagged = [note for note in metadata if isinstance(note, TaggedField)]
    if tagged:
        yield from tagged
    elif get_origin(annotation) is Annotated:
        yield from _allowed_kinds(get_args(annotation)[0], get_args(annotation)[1:])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _allowed_kinds(member)
    else:
        yield annotation


def _registered_class(registry: Registry[T], place: object) -> type[T] | None:
    """Return the class that `place` names by its `type`; None if there is no such class."""
    key = place.get("type") if isinstance(place, Mapping) else None
    try:
        return registry[key] if isinstance(key, str) else None
    except UnknownKeyError:
        return None
