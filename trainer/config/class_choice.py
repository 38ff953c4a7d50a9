"""A class by its key or dotted path, and its parameters, as a config names them."""

import inspect
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from optimizer import Registry, UnknownKeyError
from optimizer.config import (
    UNKNOWN_KEY,
    UNKNOWN_NAME,
    Config,
    arguments_model,
    check_arguments,
    construct,
    explain,
    in_yaml,
    nest,
    refusal,
    reworded,
    shown,
    shown_value,
    synonyms,
    together,
)

from ..errors import ConfigError, raised, user_line
from .marks import FixedInRun
from .path_values import path_parameters

AnyClass = type[Any]
"""Inside the class below, `type` is a field."""


class ClassChoice(Config):
    """A registered class by key, and its parameters, which are checked against that class."""

    registry: ClassVar[Registry[Any]]

    type: FixedInRun[str]
    """Key of a class (`innerstep list` lists them), or its dotted path: `my_package.my_module.MyClass`."""
    params: FixedInRun[dict[str, Any]] = Field(default_factory=dict)
    """Parameters of the class (`innerstep describe KEY` lists them). Those left out have the class's defaults."""

    @property
    def chosen(self) -> AnyClass:
        """The class."""
        return self.registry[self.type]

    def make(self, path: str) -> Any:
        """Return a new instance of the class.

        The parameters are validated again, so that two instances share no list that one of them may change.

        Args:
            path: The path of this entry in the config, for messages.

        Raises:
            ConfigError: A parameter does not fit, or the constructor raises anything.
        """
        try:
            return construct(self.chosen, path_parameters(self.chosen, self.params))
        except ValidationError as error:
            if isinstance(error.__cause__, ConfigError):  # its message names the place
                raise error.__cause__ from None
            where = user_line(error.__cause__) if error.__cause__ is not None else ""
            raise ConfigError("\n".join(explain(nest(error, (*path.split("."), "params")))) + where) from error
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # the class may be the user's
            raise ConfigError(f"{path}.params: {self.type} cannot be built: {raised(error)}") from error

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict | cls):
            example = shown(data) if isinstance(data, str) else next(iter(cls.registry), "KEY")
            got = in_yaml(data) or shown_value(data)
            raise refusal(f"must be a mapping with a `type`, as in {{type: {example}}}; got {got}", (), data)
        try:
            return handler(data)
        except ValidationError as error:
            if not isinstance(data, dict):
                raise
            known = cls._parameters_of(data.get("type"))
            raise _naming_params(_with_errors_of_params(cls, data, error), known) from None

    @classmethod
    def _parameters_of(cls, key: object) -> list[str]:
        """Return the parameters of the class with this key; none if there is no such class."""
        with suppress(Exception):  # annotations may be the user's
            fields = arguments_model(cls.registry[key]).model_fields if isinstance(key, str) else {}
            return [field.alias or name for name, field in fields.items()]
        return []

    @model_validator(mode="after")
    def _check_params(self) -> Self:
        self._refuse_params()
        return self

    def _refuse_params(self) -> None:
        """Check the parameters against the class. Raises ValidationError."""
        try:
            self._validate_params()
        except UnknownKeyError as error:
            raise refusal(str(error), ("type",), self.type, UNKNOWN_KEY) from None
        except ConfigError as error:  # of a member of a family, whose package is missing
            raise refusal(str(error), ("type",), self.type) from error
        except ValidationError as error:
            raise nest(error, ("params",)) from None
        except (Exception, SystemExit) as error:  # annotations and validators may be the user's
            rule = f"{self.type}{_source_line(self.chosen)} cannot take parameters: {raised(error)}"
            raise refusal(rule, ("params",)) from error

    def _validate_params(self) -> None:
        """Validate the parameters as arguments of the class, whose `refused_params` names those of other places.

        Raises:
            ValidationError: A parameter does not fit. Annotations and validators of the class may raise anything.
        """
        refused: Mapping[str, str] = getattr(self.chosen, "refused_params", {})
        for name in self.params.keys() & refused.keys():
            raise refusal(refused[name], (name,), self.params[name])
        check_arguments(self.chosen, path_parameters(self.chosen, self.params))


def _with_errors_of_params(
    cls: type[ClassChoice], data: Mapping[str, object], error: ValidationError
) -> ValidationError:
    """Return the error of an entry with those of its parameters, which were not checked if another field is wrong."""
    key, params = data.get("type"), data.get("params", {})
    checked = {"type", "params"} & {detail["loc"][0] for detail in error.errors() if detail["loc"]}
    if checked or not isinstance(key, str) or not isinstance(params, dict):
        return error
    try:
        cls.model_construct(type=key, params=params)._refuse_params()
    except ValidationError as second:
        return together(error, second)
    return error


def _naming_params(error: ValidationError, parameters: Collection[str]) -> ValidationError:
    """Return the error of an entry, with a note on each unknown name that is a parameter of the class."""

    def message_of(detail: ErrorDetails) -> str | None:
        name = str(detail["loc"][0]) if len(detail["loc"]) == 1 else ""
        ours = name if name in parameters else next((one for one in synonyms(name) if one in parameters), None)
        if detail["type"] != UNKNOWN_NAME or ours is None or "did you mean" in detail["msg"]:
            return None
        return f"is a parameter of the class, and belongs inside params: {{{ours}: {shown_value(detail['input'])}}}"

    return reworded(error, message_of)


def _source_line(cls: type[object]) -> str:
    """Return the place of the class as " (file.py:3)", since annotations have no lines; "" if it has no source."""
    with suppress(OSError, TypeError):
        return f" ({inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]})"
    return ""
