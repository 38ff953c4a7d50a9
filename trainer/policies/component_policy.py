"""The base of policies whose components are wired in the config."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from optimizer.config import listed

from ..builtins.dataflow import Dataflow
from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..interfaces.features import Feature, FeatureType
from ..interfaces.policy import Actor, Policy
from ..runtime.terminal import report
from .actors import ActionQueue, ObservationHistory, PolicyActor, TemporalEnsemble
from .feature_options import (
    ELSEWHERE,
    PATH,
    READABLE,
    PolicyOptions,
    action_name,
    check_inputs,
    check_options,
    known_features,
    normalization_modes,
)
from .normalization import Normalization, NormalizationMode
from .time_steps import first_action_step, observation_steps


class ComponentPolicy(Policy):
    """Normalizes the features of a data set or a simulator, and wires them through the components.

    Its state is all that acting needs of the data: features, modes, statistics, and time steps.

    Raises:
        ConfigError: Two options contradict each other.
    """

    refused_params: ClassVar[Mapping[str, str]] = ELSEWHERE
    """Names of parameters that are refused, with the reasons."""
    added_inputs: ClassVar[Sequence[str]] = ()
    """Names beside the features that the wiring may read. A subclass computes their values."""
    chunk: int = 0
    """Actions of a prediction, those before now included."""
    first_action: int = 0
    """Time step of a prediction's first action: 0 is now, -1 the time step before, as in LeRobot's diffusion policy."""
    features: Mapping[str, Feature]
    """The inputs and the action, by name."""
    normalization: Normalization
    """Normalizes these features."""

    def __init__(self, **options: Unpack[PolicyOptions]) -> None:
        check_options(options)
        self._options = options
        self._dataflow = Dataflow(options["wiring"]) if options.get("wiring") else None
        self._modes: Mapping[str, NormalizationMode] = {}
        self._observation_steps: Mapping[str, Sequence[int]] = {}
        self.action = action_name(options)
        self.features = {}

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Take features, time steps and statistics from the data, and check the options against them."""
        batch = data.train.batch(torch.zeros(1, dtype=torch.int64))
        known = known_features(self._options, data.features, batch)
        features = self._used_features(self.wired(list(components)), known, batch)
        numbers = {name: _number_of_steps(name, batch[name], feature) for name, feature in features.items()}
        chunk = numbers.pop(self.action)
        observed = {name: observation_steps(name, number, data.deltas) for name, number in numbers.items()}
        self._take_steps(observed, chunk, first_action_step(self.action, chunk, data.deltas))
        self._actions_carried_out()
        self._modes, self.features = normalization_modes(self._options, features), features
        self.normalization = Normalization(features, self._modes, data.statistics)
        for line in self.normalization.constants(data.statistics):
            report(line)

    def state_dict(self) -> Mapping[str, Any]:
        """Return features, modes, time steps and statistics; empty before `prepare`."""
        return {**self._facts(), "statistics": self.normalization.statistics()} if self.features else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state. A policy that was never prepared can act then.

        Raises:
            ValueError: The policy was prepared for other features, modes, or time steps, or has other options.
        """
        features = {
            name: Feature(FeatureType(feature["type"]), tuple(feature["shape"]))
            for name, feature in state["features"].items()
        }
        facts = self._facts() if self.features else self._facts_by_options(features)
        if differing := [name for name in facts if facts[name] != state[name]]:
            text = "; ".join(f"{name}: saved {state[name]}, now {facts[name]}" for name in differing)
            raise ValueError(f"it is of a policy for other data, or with other options. {text}")
        self._take_steps(state["observation_steps"], state["chunk"], state["first_action"])
        self._modes = {name: NormalizationMode(mode) for name, mode in state["modes"].items()}
        self.features = features
        self.normalization = Normalization(features, self._modes, state["statistics"])

    def actor(self, components: nn.ModuleDict) -> Actor:
        """Return an actor by `n_action_steps` or `temporal_ensemble_coeff`.

        Raises:
            ConfigError: `n_action_steps` is more than there are in a prediction.
        """
        chunks, coefficient = PolicyActor(self, components), self._options.get("temporal_ensemble_coeff")
        if coefficient is not None:
            return ObservationHistory(TemporalEnsemble(chunks, coefficient), self.n_obs_steps)
        return ObservationHistory(ActionQueue(chunks, self._actions_carried_out()), self.n_obs_steps)

    def wired(self, components: Sequence[str]) -> Sequence[str]:
        """Return those of the components that the wiring must use: all. A subclass may have others beside them."""
        return components

    @property
    def dataflow(self) -> Dataflow:
        """The wiring."""
        assert self._dataflow is not None, "prepare comes first, or the state of a prepared policy"
        return self._dataflow

    def inputs(self, batch: Batch) -> Batch:
        """Return the features that the wiring reads, normalized, each with a dimension for time (N, T, *shape).

        Args:
            batch: A batch of samples or observations.
        """
        given = {name: _with_time(batch[name], self.features[name]) for name in self._input_names()}
        return self.normalization.normalize(given)

    def observed(self, components: nn.ModuleDict, observation: Batch) -> Batch:
        """Return the features of `observation` that the wiring reads, at the time steps that a sample has of them.

        Args:
            components: Their device is that of the result.
            observation: Tensors (N, n_obs_steps, …) by feature.

        Raises:
            ConfigError: One is not there, or has another shape than in the data set.
        """
        names = self._input_names()
        if missing := [name for name in names if name not in observation]:
            raise ConfigError(
                f"the policy reads {missing[0]!r}, which is not in the observation: {listed(list(observation))}"
            )
        for name in names:
            expected, shape = (self.n_obs_steps, *self.features[name].shape), observation[name].shape[1:]
            if shape != expected:
                raise ConfigError(
                    f"the policy reads {name!r} of shape {list(expected)}; an observation has {list(shape)}"
                )
        device = next(components.parameters()).device
        return {name: self._at_its_steps(name, observation[name]).to(device) for name in names}

    def target(self, batch: Batch) -> Tensor:
        """Return the normalized actions of a batch of samples (N, chunk, *shape), float32."""
        given = _with_time(batch[self.action], self.features[self.action])
        normalized: Tensor = self.normalization(self.action, given)
        return normalized.float()

    def from_now_on(self, predicted: Tensor) -> Tensor:
        """Return the predicted actions from now on (N, T, *shape), in the units of the data.

        Args:
            predicted: Normalized actions (N, chunk, *shape).
        """
        return self.normalization.unnormalize(self.action, predicted[:, -self.first_action :])

    def first_action_error(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Return the mean distance (L2) of the predicted action for now from the data's, in the units of the data.

        Args:
            predicted: Normalized actions (N, chunk, *shape).
            batch: The samples.
        """
        given = _with_time(batch[self.action], self.features[self.action])[:, -self.first_action].float()
        difference = self.from_now_on(predicted.detach())[:, 0] - given
        return difference.reshape(len(given), -1).square().sum(dim=1).sqrt().mean()

    def _input_names(self) -> list[str]:
        return [name for name in self.features if name != self.action]

    def _facts(self) -> dict[str, Any]:
        """Return the state without the statistics, as plain values."""
        return {
            "features": {name: {"type": f.type.value, "shape": list(f.shape)} for name, f in self.features.items()},
            "modes": _texts(self._modes),
            "observation_steps": {name: list(steps) for name, steps in self._observation_steps.items()},
            "chunk": self.chunk,
            "first_action": self.first_action,
        }

    def _facts_by_options(self, features: Mapping[str, Feature]) -> dict[str, Any]:
        """Return the facts that follow from these features and the options. Raises ValueError if they do not fit."""
        names = [*self._wired_features(), self.action]
        if set(names) != set(features):
            raise ValueError(f"it is of a policy of {listed(list(features))}; the options name {listed(names)}")
        return self._modes_by_options(features)

    def _modes_by_options(self, features: Mapping[str, Feature]) -> dict[str, Any]:
        return {"modes": _texts(normalization_modes(self._options, features))}

    def _wired_features(self) -> list[str]:
        return [name for name in self.dataflow.inputs if name not in self.added_inputs]

    def _take_steps(self, observations: Mapping[str, Sequence[int]], chunk: int, first_action: int) -> None:
        self._observation_steps, self.chunk, self.first_action = observations, chunk, first_action
        self.n_obs_steps = 1 - min(min(steps) for steps in observations.values())

    def _actions_carried_out(self) -> int:
        """Return how many actions of each prediction are carried out. Raises ConfigError if there are fewer."""
        given, most = self._options.get("n_action_steps"), self.chunk + self.first_action
        if given is not None and given > most:
            raise ConfigError(
                f"{PATH}.n_action_steps: must be at most {most}, the actions of a prediction from now on; got {given}"
            )
        return given or most

    def _at_its_steps(self, name: str, history: Tensor) -> Tensor:
        """Return one input at the time steps that a sample has of it, of its history (N, n_obs_steps, …)."""
        steps = self._observation_steps[name]
        is_all = list(steps) == list(range(1 - self.n_obs_steps, 1))
        return history if is_all else history[:, [step - 1 for step in steps]]

    def _used_features(
        self, components: Sequence[str], known: Mapping[str, Feature], batch: Batch
    ) -> dict[str, Feature]:
        """Return the inputs and the action. Raises ConfigError if the wiring does not fit components and features."""
        readable = [
            name
            for name, feature in known.items()
            if feature.type in READABLE and name in batch and name != self.action
        ]
        if self._dataflow is None:
            lines = "\n".join(f"  - {line}" for line in example_wiring(components, readable, self.added_inputs))
            raise ConfigError(f"{PATH}.wiring: required. For example:\n{lines}")
        if twice := [name for name in self.added_inputs if name in known]:
            raise ConfigError(f"data: a feature is called {twice[0]!r}, which the policy computes itself. Rename it.")
        self._dataflow.check(components, [*readable, *self.added_inputs], f"{PATH}.wiring")
        inputs = self._wired_features()
        if not inputs:
            raise ConfigError(f"{PATH}.wiring: must read a feature of the data; they are {listed(readable)}")
        check_inputs(self._options, inputs)
        return {name: known[name] for name in inputs} | self._action_feature(known, batch)

    def _action_feature(self, known: Mapping[str, Feature], batch: Batch) -> dict[str, Feature]:
        """Return the action. Raises ConfigError if it is not in the data."""
        if self.action not in known or self.action not in batch:
            raise ConfigError(
                f"{PATH}.action: the data set has no feature {self.action!r}; it has {listed(list(known))}"
            )
        # Whatever is predicted is an action: an environment does not show it.
        return {self.action: Feature(FeatureType.ACTION, known[self.action].shape)}


def mean_over_valid(error: Tensor, is_pad: Tensor | None) -> Tensor:
    """Return the mean over samples of each one's mean over its actions, so that each sample weighs the same.

    Args:
        error: Of each number of an action (N, chunk, *shape).
        is_pad: True for actions beyond the ends of the episode (N, chunk), which do not count; None: all count.
    """
    error = error.unsqueeze(-1).flatten(2).mean(dim=2)
    if is_pad is None:
        return error.mean()
    valid = (~is_pad).to(error.dtype).view_as(error)
    return ((error * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).mean()


def example_wiring(components: Sequence[str], features: Sequence[str], added: Sequence[str]) -> list[str]:
    """Return lines in which each component but the last reads one feature, and the last reads all results."""
    *readers, last = components
    results = {
        f"{name.replace('-', '_')}_tokens": (name, feature) for name, feature in zip(readers, features, strict=False)
    }
    lines = [f"{result} = {name}({feature})" for result, (name, feature) in results.items()]
    return [*lines, f"actions = {last}({', '.join([*results, *features[len(results) :], *added])})"]


def _texts(modes: Mapping[str, NormalizationMode]) -> dict[str, str]:
    return {name: mode.value for name, mode in modes.items()}


def _with_time(tensor: Tensor, feature: Feature) -> Tensor:
    return tensor.unsqueeze(1) if tensor.dim() == len(feature.shape) + 1 else tensor


def _number_of_steps(name: str, tensor: Tensor, feature: Feature) -> int:
    """Return the number of time steps of a feature in a batch. Raises ConfigError if its shape does not fit."""
    shape = _with_time(tensor, feature).shape
    if len(shape) != len(feature.shape) + 2 or tuple(shape[2:]) != feature.shape:
        raise ConfigError(
            f"data: {name!r} has shape {list(feature.shape)} by its features; a sample has {list(tensor.shape[1:])}"
        )
    return shape[1]
