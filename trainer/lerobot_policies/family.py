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
from .data_fit import check_time_steps, features_of, with_features
from .presets import preset_of

PREFIX = "lerobot"
PARAMS = "model.policy.params"


class OnDemand:
    """What a class of the family `lerobot` adds to LeRobot's policy class, which comes after it in its bases.

    Args:
        params: Fields of the policy's config class.

    Raises:
        ValueError: LeRobot refuses them.
    """

    config_class: ClassVar[type]
    refused_params: ClassVar[Mapping[str, str]] = REFUSED
    """Names of parameters that are refused, with the reasons."""

    def __init__(self, **params: Any) -> None:
        super().__init__(config_of(self.config_class, params))  # type: ignore[call-arg]  # LeRobot's class is next

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
    try:
        import lerobot.policies  # noqa: F401 registers the config classes
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class
    except ImportError as error:
        raise missing_extra(f"{PREFIX}.{name}", "lerobot on Python 3.12 or later", "lerobot") from error
    known = list(PreTrainedConfig.get_known_choices())
    key = name.lower()
    if key not in known:
        raise UnknownKeyError(f"LeRobot has no policy {name!r}{nearest(name, known)} It has: {joined(known)}")
    try:
        base = get_policy_class(key)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{PREFIX}.{key}: LeRobot cannot load this policy: {error}") from error
    config_class = PreTrainedConfig.get_choice_class(key)
    contents = {
        "__doc__": _docstring(key, config_class),
        "__module__": __name__,
        "__signature__": signature_of(config_class),
    }
    return type(base.__name__, (OnDemand, base), contents)


def _docstring(key: str, config_class: type) -> str:
    """Return a line, and what LeRobot says of the fields."""
    fields = (config_class.__doc__ or "").partition("Args:")[2]
    own = f"LeRobot's policy `{key}`. Its parameters are the fields of {config_class.__name__}."
    return f"{own}\n\n    Args:{fields}" if fields else own


MODEL_REGISTRY.add_family(PREFIX, policy_class)
