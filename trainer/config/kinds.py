"""The kinds of value that may stand in a config, as its classes declare them: followed from a section to a value."""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from optimizer import Registry, UnknownKeyError
from optimizer.config import TaggedField, arguments_model

T = TypeVar("T")
PARAMS = "params"
TYPE = "type"
_kinds: WeakKeyDictionary[type[BaseModel], Mapping[str, Sequence[object]]] = WeakKeyDictionary()


def kinds_inside(kind: object, part: str, place: object) -> Iterator[object]:
    """Yield the kinds of value that may stand at `part` in a value of `kind`.

    Args:
        kind: A type, a `TaggedField`, or a generic alias.
        part: A name in the value, or the index of an item.
        place: The value, as far as it is there.
    """
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        registry = registry_of(kind) if part == PARAMS else None
        if registry is None:
            yield from _kinds_of_fields(kind).get(part, ())
        elif (cls := registered_class(registry, place)) is not None:
            yield from arguments_of(cls)
    elif isinstance(kind, TaggedField):
        cls = registered_class(kind.registry, place)
        yield from [str] if part == TYPE else [] if cls is None else kinds_inside(cls, part, place)
    elif (origin := get_origin(kind)) in (dict, Mapping):
        yield from allowed_kinds(get_args(kind)[1])
    elif origin in (list, tuple, Sequence) and part.isdecimal():
        yield from _kinds_of_item(kind, int(part))


def _kinds_of_fields(model: type[BaseModel]) -> Mapping[str, Sequence[object]]:
    """Return the kinds of value of each field, by its name in a config. They are kept once all types are resolved."""
    found = _kinds.get(model)
    if found is None:
        fields = model.model_fields.items()
        found = {field.alias or name: tuple(allowed_kinds(field.annotation, field.metadata)) for name, field in fields}
        if getattr(model, "__pydantic_fields_complete__", model.__pydantic_complete__):  # the first since pydantic 2.11
            _kinds[model] = found
    return found


def allowed_kinds(annotation: object, metadata: Sequence[object] = ()) -> Iterator[object]:
    """Yield the kinds of value that an annotation allows."""
    tagged = [note for note in metadata if isinstance(note, TaggedField)]
    if tagged:
        yield from tagged
    elif get_origin(annotation) is Annotated:
        yield from allowed_kinds(get_args(annotation)[0], get_args(annotation)[1:])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from allowed_kinds(member)
    else:
        yield annotation


def registry_of(kind: object) -> Registry[Any] | None:
    """Return the registry of an entry with `type` and `params`; None if `kind` is not of such an entry."""
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    registry = getattr(kind, "registry", None) if is_model else None
    return registry if isinstance(registry, Registry) else None


def registered_class(registry: Registry[T], place: object) -> type[T] | None:
    """Return the class that `place` names by its `type`; None if there is no such class."""
    key = place.get(TYPE) if isinstance(place, Mapping) else None
    try:
        return registry[key] if isinstance(key, str) else None
    except (UnknownKeyError, ValueError):  # of a family, whose package may be missing: it is reported in validation
        return None


def arguments_of(cls: type) -> list[type[BaseModel]]:
    """Return the model of the arguments of a class; nothing if the class's annotations fail, as is reported later."""
    try:
        return [arguments_model(cls)]
    except (Exception, SystemExit):  # annotations may be the user's
        return []


def names_of(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields, as they stand in a config."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _kinds_of_item(kind: object, index: int) -> Iterator[object]:
    items = get_args(kind)
    if get_origin(kind) is tuple and not (len(items) == 2 and items[1] is Ellipsis):
        items = items[index : index + 1]
    for annotation in items[:1]:
        yield from allowed_kinds(annotation)
