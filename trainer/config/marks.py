"""Marks at the fields of the config: which values hold for a whole run, and which a resume may change."""

from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

T = TypeVar("T")


class Mark(Enum):
    """Each field of the config carries one of these.

    A section (a field that holds a config, or several by name) is fixed if one of the fields inside is. The fields
    inside that may change keep their mark.
    """

    FIXED_IN_RUN = "fixed in a run"
    """A checkpoint holds the value, a resume compares it, and `resume.on_change` decides where the two differ."""
    MAY_CHANGE = "may change in a run"
    """A resume takes the value that the config gives now."""


FixedInRun = Annotated[T, Mark.FIXED_IN_RUN]
MayChange = Annotated[T, Mark.MAY_CHANGE]


def fixed_fields(model: type[BaseModel]) -> list[str]:
    """Return the names of the fields of a config that are fixed in a run."""
    return [name for name, field in model.model_fields.items() if Mark.FIXED_IN_RUN in field.metadata]


def may_change(model: type[BaseModel], name: str) -> bool:
    """Return whether `name` is a field of a config that may change in a run."""
    return name in model.model_fields and Mark.MAY_CHANGE in model.model_fields[name].metadata


class Section(NamedTuple):
    """A field that holds a config of the class `model`: one, or (`several`) a mapping of them by name; or None."""

    name: str
    model: type[BaseModel]
    several: bool


def find_section(model: type[BaseModel], name: str) -> Section | None:
    """Return the section that the field `name` of a config holds; None for a plain value."""
    held = _held_config(model.model_fields[name].annotation)
    return None if held is None else Section(name, *held)


@cache
def fixed_sections(model: type[BaseModel]) -> list[Section]:
    """Return the sections of a config that are fixed in a run."""
    sections = (find_section(model, name) for name in fixed_fields(model))
    return [found for found in sections if found is not None]


def _held_config(annotation: object) -> tuple[type[BaseModel], bool] | None:
    """Return the config that an annotation holds, and whether it holds several of them by name.

    A field that takes other values too, such as `freeze`, is a plain one.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    kinds = [_held_config(kind) for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and None in kinds:
        return None
    held = next(filter(None, kinds), None)
    return None if held is None else (held[0], held[1] or get_origin(annotation) is dict)


def fixed_values(config: BaseModel) -> dict[str, Any]:
    """Return the plain values of the fixed fields of `config`, section by section."""
    values = config.model_dump(mode="json", include=set(fixed_fields(type(config))))
    for name, _, several in fixed_sections(type(config)):
        if (inner := getattr(config, name, None)) is not None:
            values[name] = {key: fixed_values(one) for key, one in inner.items()} if several else fixed_values(inner)
    return values


def default_values(model: type[BaseModel]) -> dict[str, Any]:
    """Return the plain defaults of the fixed fields that have one, section by section."""
    return fixed_values(model.model_construct())
