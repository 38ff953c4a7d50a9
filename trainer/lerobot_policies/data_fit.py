"""The features and time steps that a policy of LeRobot's needs of a data set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from optimizer.config import listed, nearest

from ..errors import ConfigError
from ..interfaces.dataset import DataSet
from ..interfaces.features import Feature, FeatureType

PATH = "model.policy.params"
_DROPPED = "drop_n_last_frames"
_INPUTS = (FeatureType.STATE, FeatureType.VISUAL, FeatureType.ENV)
OBSERVATION, ACTION, REWARD = "observation.", "action", "next.reward"
"""LeRobot's names of features: how observations begin, and the others."""


def features_of(data: DataSet) -> Mapping[str, Feature]:
    """Return the features of the data set.

    Raises:
        ConfigError: It has none.
    """
    if not data.features:
        raise ConfigError(
            f"data: a policy of LeRobot's needs a data set with features; {type(data).__name__} has none. Choose"
            " `type: lerobot`, or give the class `features`, `deltas` and `statistics`."
        )
    return data.features


def with_features(params: Mapping[str, Any], known: Mapping[str, Feature]) -> dict[str, Any]:
    """Return `params` with the features of the data set as inputs and outputs, where they are not given.

    Raises:
        ConfigError: A given feature is not in the data set, or has another shape there.
    """
    completed = dict(params)
    for parameter, types in (("input_features", _INPUTS), ("output_features", (FeatureType.ACTION,))):
        if completed.get(parameter):
            _check_given(parameter, completed[parameter], known)
            continue
        completed[parameter] = {
            name: {"type": feature.type.value, "shape": list(feature.shape)}
            for name, feature in known.items()
            if feature.type in types
        }
    if not completed["output_features"]:
        raise ConfigError(f"data: a policy needs a feature `action` to learn; the data set has {listed(list(known))}")
    return completed


def check_time_steps(config: Any, data: DataSet) -> None:
    """Check that samples have the time steps that the policy trains on.

    Args:
        config: LeRobot's config object.
        data: The data set.

    Raises:
        ConfigError: They have others. The message has the parameters of the data set to set.
    """
    given = data.train.batch(torch.zeros(1, dtype=torch.int64))
    differing: dict[str, list[int]] = {}
    lines = []
    for name in [*config.input_features, *config.output_features, REWARD]:
        wanted = wanted_steps(config, name)
        if wanted is None or name not in data.features:
            continue
        if name not in given:
            raise ConfigError(f"data: the policy needs {name!r}, which is not in a sample: {listed(list(given))}")
        is_several = given[name].dim() > len(data.features[name].shape) + 1
        steps = _steps(name, given[name].shape[1] if is_several else 1, data)
        if steps != wanted:
            differing[name] = wanted
            lines.append(f"{name!r} at the time steps {_short(wanted)}, and a sample has {_short(steps)}")
    if differing:
        raise ConfigError(f"data: lerobot.{config.type} needs {'; '.join(lines)}. Set {_remedy(config, differing)}")


def differing_samples(config: Any, data: DataSet) -> list[str]:
    """Return a line if LeRobot would leave out other frames at the end of episodes than the data set does.

    Args:
        config: LeRobot's config object.
        data: The data set. One that does not count such frames has its own samples.
    """
    wanted, dropped = getattr(config, _DROPPED, None) or 0, getattr(data, _DROPPED, None)
    if dropped is None or dropped == wanted:
        return []
    return [
        f"data.params.{_DROPPED} is {dropped}, and LeRobot trains lerobot.{config.type} without the last {wanted}"
        f" frames of each episode. For LeRobot's samples set it to {wanted}; if this is on purpose, set"
        f" {PATH}.{_DROPPED} to {dropped}."
    ]


def wanted_steps(config: Any, name: str) -> list[int] | None:
    """Return the time steps of a feature that the policy trains on, as distances in frames; None: any that it has."""
    if name.startswith(OBSERVATION):
        return list(config.observation_delta_indices or [0])
    if name == ACTION:
        return list(config.action_delta_indices or [0])
    wants_reward = name == REWARD and config.reward_delta_indices is not None
    return list(config.reward_delta_indices) if wants_reward else None


def has_time(config: Any, name: str) -> bool:
    """Return whether the policy expects a dimension for time in a feature."""
    if name.startswith(OBSERVATION):
        return config.observation_delta_indices is not None
    if name == ACTION:
        return config.action_delta_indices is not None
    return name != REWARD or config.reward_delta_indices is not None


def _steps(name: str, number: int, data: DataSet) -> list[int]:
    if name in data.deltas:
        return list(data.deltas[name])
    return list(range(number)) if name == ACTION else list(range(1 - number, 1))


def _remedy(config: Any, wanted: Mapping[str, Sequence[int]]) -> str:
    """Return the parameters of the data set that serve these time steps."""
    observations = {name: steps for name, steps in wanted.items() if name.startswith(OBSERVATION)}
    others = {name: list(steps) for name, steps in wanted.items() if name not in observations}
    settings = []
    steps = list(config.observation_delta_indices or [0])
    if observations and steps == list(range(1 - len(steps), 1)):
        settings.append(f"data.params.n_obs_steps: {len(steps)}")
    else:
        others = {**{name: list(of) for name, of in observations.items()}, **others}
    if others.get(ACTION) == list(range(len(others.get(ACTION, [])))) and ACTION in others:
        settings.append(f"data.params.chunk: {len(others.pop(ACTION))}")
    if others:
        settings.append(f"data.params.deltas: {{{', '.join(f'{name}: {steps}' for name, steps in others.items())}}}")
    return " and ".join(settings)


def _short(steps: Sequence[int]) -> str:
    is_range = len(steps) > 3 and list(steps) == list(range(steps[0], steps[0] + len(steps)))
    return f"{steps[0]} to {steps[-1]}" if is_range else listed(steps, 8)


def _check_given(parameter: str, given: Mapping[str, Any], known: Mapping[str, Feature]) -> None:
    for name, feature in given.items():
        if name not in known:
            raise ConfigError(
                f"{PATH}.{parameter}: the data set has no feature {name!r}{nearest(name, list(known))}"
                f" It has {listed(list(known))}"
            )
        shape = list(feature["shape"])
        if shape != list(known[name].shape):
            raise ConfigError(
                f"{PATH}.{parameter}.{name}.shape: must be the data set's, {list(known[name].shape)}; got {shape}"
            )
