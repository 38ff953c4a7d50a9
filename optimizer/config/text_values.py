"""Text in a config that stands for a value of another type: tuples in parentheses, and words for booleans."""

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel


def read_text_values(model: type[BaseModel], data: object) -> object:
    """Return raw fields with text such as '(0.9, 0.999)' as a list where a list is allowed.

    Text is also marked where a boolean is required: pydantic would take words such as 'yes', 'on', 'off', 't'.

    Args:
        model: The model that the fields are for.
        data: The fields by name or alias. Anything but a dict is returned unchanged.
    """
    if not isinstance(data, dict):
        return data
    changed: dict[str, object] = {}
    for name, field in model.model_fields.items():
        text = data.get(field.alias or name)
        if isinstance(text, str):
            types = set(_union_members(field.annotation))
            if types <= {bool, NoneType}:
                changed[field.alias or name] = _TextForBoolean(text)
            elif types & {tuple, list} and (found := re.fullmatch(r"\(([^()]*)\)", text)):
                changed[field.alias or name] = [part.strip() for part in found[1].split(",") if part.strip()]
    return {**data, **changed} if changed else data


class _TextForBoolean:
    """Text in place of true or false. Pydantic refuses it, as it is of no type that it knows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return repr(self.text)


def _union_members(annotation: object) -> Iterator[object]:
    """Yield the types that an annotation allows; of a list or tuple, the bare type."""
    if get_origin(annotation) is Annotated:
        yield from _union_members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _union_members(member)
    else:
        yield get_origin(annotation) or annotation
