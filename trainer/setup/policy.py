"""Completes the config of `model.policy` from the data, and builds its components."""

from collections.abc import Callable

from torch import nn

from ..config.schema import ExperimentConfig, ModelConfig
from ..errors import ConfigError
from ..interfaces.component import CompletesParams
from ..interfaces.dataset import DataSet
from ..splitting.parts import split
from .initial_weights import Loaded, load_initial

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


def build_policy(
    config: ModelConfig, load: bool, log: Callable[[str], None]
) -> tuple[dict[str, nn.Module], dict[str, Loaded]]:
    """Return the components of the policy by name, and what `init_from` loaded; empty without a policy.

    Args:
        config: The `model` section.
        load: Whether to load the weights that `init_from` names: first those of the whole, then those of parts.
        log: Prints a line.

    Raises:
        ConfigError: The class refuses its parameters, the parts do not fit it, or `init_from` does not.
    """
    policy = config.policy
    if policy is None:
        return {}, {}
    whole: nn.Module = policy.make(PATH)
    loaded = {}
    if load and policy.init_from is not None:
        loaded[PATH] = load_initial(PATH, policy.init_from, whole, log, is_policy=True)
    try:
        components = split(whole, {name: part.modules for name, part in policy.parts.items()})
    except ValueError as error:
        raise ConfigError(f"{PATH}.parts.{error}") from error
    for name, part in policy.parts.items():
        path = f"{PATH}.parts.{name}"
        if load and part.init_from is not None:
            loaded[path] = load_initial(path, part.init_from, components[name], log)
    return components, loaded
