"""Completes the config of `model.policy` from the data, and builds its components."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..config.plain_values import plain
from ..config.schema import ExperimentConfig, ModelConfig
from ..errors import ConfigError, raised
from ..interfaces.component import CompletesParams, NotesData, weights_follow
from ..interfaces.dataset import DataSet
from ..splitting.parts import split
from .initial_weights import Loaded, load_initial, replaces_all

PATH = "model.policy"


def completed(config: ExperimentConfig, data: DataSet, log: Callable[[str], None]) -> ExperimentConfig:
    """Return the config with the parameters of the policy that follow from the data, as a run's config.yaml has them.

    Args:
        config: The run's.
        data: The data set.
        log: Prints a line.

    Raises:
        ConfigError: The policy does not fit the data.
    """
    policy = config.model.policy
    if policy is None:
        return config
    params = policy.params
    if issubclass(policy.chosen, CompletesParams):
        params = _complete(policy.type, policy.chosen, params, data)
    if issubclass(policy.chosen, NotesData):
        for line in policy.chosen.data_notes(params, data):
            log(line)
    changed = policy.model_copy(update={"params": params})
    return config.model_copy(update={"model": config.model.model_copy(update={"policy": changed})})


def _complete(key: str, cls: type[CompletesParams], params: Mapping[str, Any], data: DataSet) -> dict[str, Any]:
    """Return the parameters that a class has completed.

    Raises:
        ConfigError: Its `complete_params` fails, or returns something else than plain values by name.
    """
    try:
        completed = cls.complete_params(copy.deepcopy(params), data)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a class may be the user's code, which may raise anything
        raise ConfigError(f"{PATH}.params: complete_params of {key} fails: {raised(error)}") from error
    if not isinstance(completed, Mapping):
        raise ConfigError(f"{PATH}.params: complete_params of {key} must return parameters by name; got {completed!r}")
    try:
        return {name: plain(value, f"{PATH}.params.{name}") for name, value in completed.items()}
    except ValueError as error:
        raise ConfigError(f"{error} complete_params of {key} returned it.") from error


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
    with weights_follow(not load or replaces_all(policy.init_from)):
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
