"""Which fields of a config take an override exactly as it was typed: those for text."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from optimizer import UnknownKeyError
from optimizer.config import TaggedField, arguments_model

from .class_choice import ClassChoice
from .overrides import TakesText
from .plain_values import read_word

_TEXT = (str, Path, os.PathLike)


def text_fields(model: type[BaseModel]) -> TakesText:
    """Return whether a field in configs of `model` takes text as it was typed.

    In a field that may be empty too, null and ~ are null. In one that takes text or a mapping, { begins a mapping.
    """

    def takes_text(tree: Mapping[str, Any], path: Sequence[str], text: str) -> bool:
        kinds: list[Any] = [model]
        place: Any = tree
        for part in path:
            kinds = [kind for outer in kinds for kind in _inside(outer, part, place)]
            place = place.get(part) if isinstance(place, Mapping) else None
        return _takes(kinds, text)

    return takes_text


def _takes(kinds: Sequence[Any], text: str) -> bool:
    if NoneType in kinds and _means_nothing(text):
        return False
    others = [kind for kind in kinds if kind is not NoneType]
    models = [kind for kind in others if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if models and text.startswith("{"):
        return False
    return bool(others) and all(_is_text(kind) for kind in others)


def _means_nothing(text: str) -> bool:
    try:
        return read_word(text) is None
    except ValueError:
        return False


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return isinstance(kind, type) and (kind in _TEXT or getattr(kind, "from_text", False) is True)


def _inside(kind: Any, part: str, place: Any) -> Iterator[Any]:
    """Yield what may stand at `part` in a value of `kind`. place: the value, as far as it is there."""
    if isinstance(kind, TaggedField):
        cls = _registered(kind.registry, place)
        yield from [str] if part == "type" else [] if cls is None else _inside(cls, part, place)
    elif get_origin(kind) in (dict, Mapping):
        yield from _kinds(get_args(kind)[1])
    elif isinstance(kind, type) and issubclass(kind, ClassChoice) and part == "params":
        cls = _registered(kind.registry, place)
        yield from [] if cls is None else [arguments_model(cls)]
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part == (field.alias or name):
                yield from _kinds(field.annotation, field.metadata)


def _kinds(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[Any]:
    """Yield the kinds of value that an annotation allows."""
    by_type = [note for note in metadata if isinstance(note, TaggedField)]
    if by_type:
        yield from by_type
    elif get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0], get_args(annotation)[1:])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _registered(registry: Any, place: Any) -> Any:
    """Return the class that `place` names by its `type`; None if there is no such class."""
    key = place.get("type") if isinstance(place, Mapping) else None
    try:
        return registry[key] if isinstance(key, str) else None
    except UnknownKeyError:
        return None
