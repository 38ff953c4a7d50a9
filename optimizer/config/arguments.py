"""The arguments of any class as a config: validated by a model that is made from the constructor's signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Required, TypeVar, Unpack, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, create_model

from .attribute_docs import attribute_docstring
from .errors import refusal
from .fields import FieldDefinitions
from .validation import Config

T = TypeVar("T")
_models: WeakKeyDictionary[type, tuple[object, type[BaseModel]]] = WeakKeyDictionary()
"""The constructors of classes and their models, which take milliseconds to make."""


def construct(cls: type[T], params: Mapping[str, object]) -> T:
    """Return `cls(**params)` with `params` validated as by `check_arguments`.

    Raises:
        ValidationError: The arguments are not valid, or the constructor itself raises ValueError or OSError.
    """
    checked = check_arguments(cls, params)
    if isinstance(checked, cls):
        return checked
    fields = type(checked).model_fields
    arguments = {str(fields[name].alias): getattr(checked, name) for name in fields if name in checked.model_fields_set}
    try:
        return cls(**arguments, **(checked.model_extra or {}))
    except (ValueError, OSError) as error:
        raise refusal(str(error), value=params) from error


def check_arguments(cls: type, params: Mapping[str, object]) -> BaseModel:
    """Return the validated model of `params` as arguments of `cls`.

    A pydantic model validates them itself; any other class by the names, types and constraints of its constructor.

    Raises:
        ValidationError: The arguments are not valid.
    """
    return arguments_model(cls).model_validate(params)


def arguments_model(cls: type) -> type[BaseModel]:
    """Return the model that validates arguments of `cls`: `cls` itself, or the model of its constructor's signature."""
    if issubclass(cls, BaseModel):
        return cls
    constructor, model = _models.get(cls, (None, BaseModel))
    if constructor is not cls.__init__:
        constructor, model = cls.__init__, signature_model(cls)
        _models[cls] = constructor, model
    return model


def signature_model(function: Callable[..., object]) -> type[Config]:
    """Return a Config with one field for each named parameter of `function`.

    A parameter's name is its field's alias: a parameter may be called `copy` or `json`, a field of a pydantic model
    may not. Options that several functions share are keys of a TypedDict: `**options: Unpack[Options]`.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: FieldDefinitions = {}
    takes_any = False
    for index, parameter in enumerate(parameters):
        if get_origin(parameter.annotation) is Unpack:
            fields |= _shared_parameters(*get_args(parameter.annotation))
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_any = takes_any or parameter.kind is parameter.VAR_KEYWORD
            continue
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"parameter_{index}"] = (annotation, Field(default, alias=parameter.name))
    base = _OpenSignatureConfig if takes_any else _SignatureConfig
    return create_model(function.__name__, __base__=base, **fields)


def _shared_parameters(options: type) -> FieldDefinitions:
    """Return a field for each key of a TypedDict; the keys that it may lack are not required."""
    required = getattr(options, "__required_keys__", ())
    fields: FieldDefinitions = {}
    for index, (name, hint) in enumerate(get_type_hints(options, include_extras=True).items()):
        annotation = get_args(hint)[0] if get_origin(hint) in (Required, NotRequired) else hint
        description = attribute_docstring(options, name)
        field = (
            Field(alias=name, description=description)
            if name in required
            else Field(default_factory=lambda: None, alias=name, description=description)
        )
        fields[f"option_{index}"] = (annotation, field)
    return fields


class _SignatureConfig(Config):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class _OpenSignatureConfig(_SignatureConfig):
    model_config = ConfigDict(extra="allow")
