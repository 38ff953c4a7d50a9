"""A config that knows where its values stand, so that errors that are found later name the place too."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pydantic import PrivateAttr

from optimizer.config import Config

from ..errors import ConfigError
from .places import Origin, Places, with_places

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class PlacedConfig(Config):
    """A config that knows where its values stand. A config without places equals one with the same values."""

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def places(self) -> Places:
        """The places of the values that the config was read from; none if it was made of a mapping."""
        return self._origin.places

    def mark(self, places: Places) -> None:
        """Note the places of the values."""
        self._origin = Origin(places)


def naming_places(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that takes a config. Its ConfigErrors name the places of the values that they are about."""

    @wraps(function)
    def placed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except ConfigError as error:
            for config in (*args, *kwargs.values()):
                if isinstance(config, PlacedConfig):
                    error.args = (with_places(str(error), config.places, type(config).model_fields), *error.args[1:])
            raise

    return placed
