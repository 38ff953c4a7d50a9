"""Completes the config of `model.policy` from the data, and builds its components."""

from torch import nn

from ..config.schema import ExperimentConfig, ModelConfig
from ..errors import ConfigError
from ..interfaces.component import CompletesParams
from ..interfaces.dataset import DataSet
from ..splitting.parts import split

PATH = "model.policy"


def completed(config: ExperimentConfig, data: DataSet) -> ExperimentConfig:
    """Return the config with the parameters of the policy that follow from the data, as a run's config.yaml has them.

    Raises:
        ConfigError: The policy does not fit the data.
    """
    policy = config.model.policy
    if policy is None or not issubclass(policy.chosen, CompletesParams):
        return config
    params = policy.chosen.complete_params(policy.params, data)
    changed = policy.model_copy(update={"params": dict(params)})
    return config.model_copy(update={"model": config.model.model_copy(update={"policy": changed})})


def build_policy(config: ModelConfig) -> dict[str, nn.Module]:
    """Return the components of the policy by name; empty without one.

    Raises:
        ConfigError: The class refuses its parameters, or the parts do not fit it.
    """
    policy = config.policy
    if policy is None:
        return {}
    whole: nn.Module = policy.make(PATH)
    try:
        return split(whole, {name: part.modules for name, part in policy.parts.items()})
    except ValueError as error:
        raise ConfigError(f"{PATH}.parts.{error}") from error
