"""`lerobot.NAME`: a class for each type of policy that LeRobot knows, made when it is named."""

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import ValidationError
from torch import nn

from optimizer import UnknownKeyError
from optimizer.config import explain, joined, nearest, nest

from ..errors import ConfigError, missing_extra
from ..interfaces.component import MODEL_REGISTRY
from ..interfaces.dataset import DataSet
from .arguments import REFUSED, config_of, signature_of, validated
from .data_fit import check_time_steps, differing_samples, features_of, with_features
from .presets import groups_by_name, preset_of
from .pretrained_fields import without_useless_downloads

PREFIX = "lerobot"
PARAMS = "model.policy.params"


class OnDemand:
    """The additions of a class of the family `lerobot` to LeRobot's policy class, the next one of its bases.

    Args:
        params: Fields of the policy's config class.

    Raises:
        ValueError: LeRobot refuses them.
    """

    config: Any
    """LeRobot's config object, which the constructor of LeRobot's class sets."""
    config_class: ClassVar[type]
    refused_params: ClassVar[Mapping[str, str]] = REFUSED
    """Names of parameters that are refused, with the reasons."""

    def __init__(self, **params: Any) -> None:
        config = config_of(self.config_class, params)
        with without_useless_downloads(config):
            super().__init__(config)  # type: ignore[call-arg]  # LeRobot's class is next

    def get_optim_params(self) -> Any:
        """Return LeRobot's parameters or groups of them, with those that LeRobot's optimizer makes by name."""
        return groups_by_name(self.config, super().get_optim_params())  # type: ignore[misc]

    @classmethod
    def complete_params(cls, params: Mapping[str, Any], data: DataSet) -> dict[str, Any]:
        """Return `params` with the features of the data set, as plain values. Those that are given stay.

        Raises:
            ConfigError: LeRobot refuses the parameters, or the data set lacks features or time steps that they ask for.
        """
        completed = with_features(params, features_of(data))
        check_time_steps(cls.lerobot_config(completed), data)
        return completed

    @classmethod
    def data_notes(cls, params: Mapping[str, Any], data: DataSet) -> list[str]:
        """Return a line on each difference between the samples and those that LeRobot trains on."""
        return differing_samples(cls.lerobot_config(params), data)

    @classmethod
    def optimizer_preset(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return LeRobot's optimizer and schedule for the policy, as an entry of `model.component_optims`.

        Raises:
            ConfigError: LeRobot refuses the parameters.
        """
        return preset_of(cls.lerobot_config(params))

    @classmethod
    def lerobot_config(cls, params: Mapping[str, Any]) -> Any:
        """Return LeRobot's config object of plain `params`.

        Raises:
            ConfigError: They do not fit.
        """
        try:
            return config_of(cls.config_class, validated(cls, params))
        except ValidationError as error:
            raise ConfigError("\n".join(explain(nest(error, tuple(PARAMS.split(".")))))) from error
        except ValueError as error:
            raise ConfigError(f"{PARAMS}: {error}") from error


@cache
def policy_class(name: str) -> type[nn.Module]:
    """Return the class of a type of LeRobot's policies: a subclass of LeRobot's own.

    Raises:
        UnknownKeyError: LeRobot knows no policy of this name.
        ConfigError: LeRobot, or a package that this policy needs, is not installed.
    """
    types = _types(name)
    from lerobot.policies.factory import get_policy_class

    key, known = name.lower(), list(types)
    if key not in known:
        raise UnknownKeyError(f"LeRobot has no policy {name!r}{nearest(name, known)} It has: {joined(known)}")
    try:
        base = get_policy_class(key)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{PREFIX}.{key}: LeRobot cannot load this policy: {error}") from error
    config_class = types[key]
    contents = {
        "__doc__": _docstring(key, config_class),
        "__module__": __name__,
        "__signature__": signature_of(config_class),
    }
    return type(base.__name__, (OnDemand, base), contents)


def summaries() -> dict[str, str]:
    """Return a line on each policy by its key, or one with the extra that is missing."""
    try:
        return {f"{PREFIX}.{name}": _summary(name) for name in sorted(_types("NAME"))}
    except ConfigError as error:
        return {f"{PREFIX}.NAME": str(error).removeprefix(f"{PREFIX}.NAME ")}


def _types(name: str) -> dict[str, type]:
    """Return LeRobot's config classes by type of policy. name: one that is asked for, for the message.

    Raises:
        ConfigError: LeRobot is not installed.
    """
    try:
        import lerobot.policies  # noqa: F401 registers the config classes
        from lerobot.configs import PreTrainedConfig
    except ImportError as error:
        raise missing_extra(f"{PREFIX}.{name}", "lerobot", "lerobot") from error
    known: dict[str, type] = PreTrainedConfig.get_known_choices()
    return known


def _summary(key: str) -> str:
    return f"LeRobot's policy `{key}`."


def _docstring(key: str, config_class: type) -> str:
    """Return a line, and LeRobot's descriptions of the fields."""
    fields = (config_class.__doc__ or "").partition("Args:")[2]
    own = f"{_summary(key)} Its parameters are the fields of {config_class.__name__}."
    return f"{own}\n\n    Args:{fields}" if fields else own


MODEL_REGISTRY.add_family(PREFIX, policy_class, summaries)
