"""A class by its key or dotted path, and its parameters, as a config names them."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from optimizer import Registry, UnknownKeyError
from optimizer.config import UNKNOWN_KEY, Config, check_arguments, construct, explain, nest, refusal

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

    @model_validator(mode="after")
    def _check_params(self) -> Self:
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
        return self

    def _validate_params(self) -> None:
        """Validate the parameters as arguments of the class, whose `refused_params` names those of other places.

        Raises:
            ValidationError: A parameter does not fit. Annotations and validators of the class may raise anything.
        """
        refused: Mapping[str, str] = getattr(self.chosen, "refused_params", {})
        for name in self.params.keys() & refused.keys():
            raise refusal(refused[name], (name,), self.params[name])
        check_arguments(self.chosen, path_parameters(self.chosen, self.params))


def _source_line(cls: type[object]) -> str:
    """Return the place of the class as " (file.py:3)", since annotations have no lines; "" if it has no source."""
    with suppress(OSError, TypeError):
        return f" ({inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]})"
    return ""
