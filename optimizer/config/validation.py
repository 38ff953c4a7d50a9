"""Validation that says what was wrong: the path, the rule, the value given, the nearest name."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice, pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, Self, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError

from .messages import MOST, listed, nearest, shown, shown_value

T = TypeVar("T")


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number, not true or false")
    return value


def _in_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise PydanticCustomError("whole_size", _LARGE)
    return value


Number = Annotated[float, BeforeValidator(_not_bool)]
Whole = Annotated[int, AfterValidator(_in_64_bits), BeforeValidator(_not_bool)]
PositiveNumber = Annotated[float, Field(gt=0), BeforeValidator(_not_bool)]
NonNegativeNumber = Annotated[float, Field(ge=0), BeforeValidator(_not_bool)]
PositiveFraction = Annotated[float, Field(gt=0, le=1), BeforeValidator(_not_bool)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_not_bool)]
Beta = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_not_bool)]
PositiveBeta = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_not_bool)]
Count = Annotated[int, Field(ge=0), AfterValidator(_in_64_bits), BeforeValidator(_not_bool)]
PositiveCount = Annotated[int, Field(ge=1), AfterValidator(_in_64_bits), BeforeValidator(_not_bool)]


class Config(BaseModel):
    """A frozen pydantic model that knows no other fields than its own and suggests the nearest name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_names(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(_with_texts_read(cls, data))
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            raise _rebuilt(error, known=known) from None

    @classmethod
    def model_rebuild(cls, *, _parent_namespace_depth: int = 0, **options: Any) -> bool | None:
        """Complete the class at its first use.

        Pydantic would look for names among the local variables of whoever uses it first, and so keep them, a
        model perhaps, alive as long as that function runs. The annotations here need no such names.
        """
        return super().model_rebuild(_parent_namespace_depth=0, **options)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        for name, field in handler.resolve_ref_schema(json_schema).get("properties", {}).items():
            if meaning := attribute_docstring(cls, name):
                field.setdefault("description", meaning)
        return json_schema

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated as a whole."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def refuse(self, field: str, rule: str) -> NoReturn:
        """Raise the ValidationError that `field` broke `rule`; for validators that compare fields."""
        raise refusal(rule, (field,), getattr(self, field))


def attribute_docstring(cls: type[Any], name: str) -> str | None:
    """Return the text below the attribute `name` in the source of `cls`, or of the base that declares it."""
    return next((docs[name] for base in cls.__mro__ if name in (docs := _attribute_docstrings(base))), None)


@cache
def _attribute_docstrings(cls: type[Any]) -> dict[str, str]:
    # Pydantic can do this too, but for every class when it is made: a third of the time that the import takes.
    if not issubclass(cls, Config) or not inspect.get_annotations(cls):
        return {}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError):  # made without source, in a notebook's cell that is gone
        return {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(statements)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


UNKNOWN_KEY = "unknown_key"
"""The kind of error that a key, or a dotted path, leads to no class. Its value is the key."""


def refusal(rule: str, path: Sequence[str | int] = (), value: Any = None, kind: str = "rule") -> ValidationError:
    """Return a ValidationError at `path`. rule: the whole message, value and remedy included."""
    return ValidationError.from_exception_data("config", [_line(kind, rule, path, value)])


def nest(error: ValidationError, prefix: Sequence[str | int]) -> ValidationError:
    """Return `error` with every path in it moved below `prefix`."""
    return _rebuilt(error, prefix=prefix)


_LARGE = "must be a whole number of 64 bits, at most 2^63 - 1"
_CLEARER = {
    "bool_type": "must be true or false, without quotes",
    "bool_parsing": "must be true or false, without quotes",
    "int_parsing_size": _LARGE,
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "path_type": "must be a path, as text",
}
"""Better words for errors of pydantic's, by their type."""


def filtered(error: ValidationError, keeps: Callable[[ErrorDetails], bool]) -> ValidationError:
    """Return `error` with those of its details that `keeps` says."""
    kept = [detail for detail in error.errors() if keeps(detail)]
    lines = [_line(detail["type"], detail["msg"], detail["loc"], detail["input"]) for detail in kept]
    return ValidationError.from_exception_data(error.title, lines)


def explain(error: ValidationError) -> list[str]:
    """Return one line an error: path, rule, value given."""
    lines = []
    for detail in error.errors():
        path = ".".join(shown(part) or "''" for part in detail["loc"] if not _names_a_type(part))
        message = detail["msg"].replace("Input should", "must").replace("Field required", "required, but not given")
        message = _CLEARER.get(detail["type"], message)
        complete = detail["type"] in ("rule", UNKNOWN_KEY, "unknown_name", "missing", "value_error")
        where = f"{path}: " if path else ""
        lines.append(f"{where}{message}" if complete else f"{where}{message}; got {shown_value(detail['input'])}")
    return lines


_MEMBER = re.compile(r"(list|dict|tuple|set|frozenset|literal|is-instance|(function|constrained|lax)-[a-z-]+)\[")


def _names_a_type(part: str | int) -> bool:
    """Return whether pydantic put this into a path to say which member of a union it tried."""
    return isinstance(part, str) and (
        _MEMBER.match(part) is not None or part in ("bool", "int", "float", "str", "none")
    )


def check_arguments(cls: type[Any], params: dict[str, Any]) -> BaseModel:
    """Validate `params` as arguments for `cls`: by the model itself if `cls` is a pydantic model, else
    by the names, types and constraints of its constructor's signature.

    Returns the validated model. Raises ValidationError.
    """
    return arguments_model(cls).model_validate(params)


def arguments_model(cls: type[Any]) -> type[BaseModel]:
    """Return the model that validates arguments for `cls`: itself, or one of its constructor's signature."""
    return cls if issubclass(cls, BaseModel) else signature_model(cls)


def construct(cls: type[T], params: dict[str, Any]) -> T:
    """Return `cls(**params)` with `params` validated as by `check_arguments`.

    Raises ValidationError, also where the constructor itself raises ValueError, or OSError for a file.
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


class _TextForBoolean:
    """Text where true or false should stand. Pydantic would take some words for it: 'yes', 'on', 'off', 't'."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return repr(self.text)


def _with_texts_read(cls: type[BaseModel], data: Any) -> Any:
    """Return raw fields with '(0.9, 0.999)' as a list where one may stand, and no text taken for a boolean."""
    if not isinstance(data, dict):
        return data
    changed: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        text = data.get(field.alias or name)
        if isinstance(text, str):
            kinds = set(_members(field.annotation))
            if kinds <= {bool, NoneType}:
                changed[field.alias or name] = _TextForBoolean(text)
            elif kinds & {tuple, list} and (found := re.fullmatch(r"\(([^()]*)\)", text)):
                changed[field.alias or name] = [part.strip() for part in found[1].split(",") if part.strip()]
    return {**data, **changed} if changed else data


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation allows, each without what it is a list or a tuple of."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield get_origin(annotation) or annotation


def signature_model(function: Callable[..., Any]) -> type[Config]:
    """Return a Config with one field for each named parameter of `function`. The parameter's name is the
    field's alias: a parameter may well be called `copy` or `json`, a field of a pydantic model not."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: dict[str, Any] = {}
    takes_any = False
    for index, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_any = takes_any or parameter.kind is parameter.VAR_KEYWORD
            continue
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"parameter_{index}"] = (annotation, Field(default, alias=parameter.name))
    base = _OpenSignatureConfig if takes_any else _SignatureConfig
    return create_model(function.__name__, __base__=base, **fields)


class _SignatureConfig(Config):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class _OpenSignatureConfig(_SignatureConfig):
    model_config = ConfigDict(extra="allow")


def _rebuilt(
    error: ValidationError, prefix: Sequence[str | int] = (), known: Sequence[str] | None = None
) -> ValidationError:
    lines = []
    for detail in islice(error.errors(include_url=False), MOST):
        kind, message = detail["type"], detail["msg"]
        if known is not None and kind == "extra_forbidden" and len(detail["loc"]) == 1:
            kind = "unknown_name"
            message = f"unknown name{nearest(str(detail['loc'][0]), known)} Known: {listed(known)}"
        lines.append(_line(kind, message, (*prefix, *detail["loc"]), detail["input"]))
    if (more := error.error_count() - MOST) > 0:
        lines.append(_line("rule", f"{more:,} more mistakes", prefix, None))
    return ValidationError.from_exception_data(error.title, lines)


def _line(kind: str, message: str, path: Sequence[str | int], value: Any) -> InitErrorDetails:
    # The message is a template for pydantic: as a value of its own it is shown as it is, braces and all.
    template = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=template, loc=tuple(path), input=value)
