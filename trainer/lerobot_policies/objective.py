"""`lerobot_policy`: the loss and the actions of a policy of LeRobot's, as LeRobot computes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.config import listed

from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..interfaces.features import Feature, FeatureType
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome, Updater
from ..interfaces.policy import Actor, Policy
from ..policies.normalization import NormalizationMode
from ..splitting.parts import REST, whole_module
from .acting import SelectingActor
from .family import OnDemand
from .processing import WITHOUT_WORDS, Statistics, observation_batch, processors, training_batch

PATH = "train.objective"


@OBJECTIVE_REGISTRY.register("lerobot_policy")
class LeRobotPolicy(Policy):
    """Trains a policy of LeRobot's by the loss that its `forward` returns, and acts by its `select_action`.

    Its pre- and postprocessor are LeRobot's, with the statistics of the data set. The metrics are the numbers that
    `forward` returns beside the loss. For held-out samples the policy is in eval mode, as in LeRobot.

    Args:
        task: The task in words, for a policy that reads it when it acts; null: the task of the data set, if there is
            one only.
        normalization_mapping: Modes by type of feature, in place of the policy's own: `model.policy.normalization`.
    """

    def __init__(
        self,
        task: str | None = None,
        normalization_mapping: Mapping[FeatureType, NormalizationMode] | None = None,
    ) -> None:
        self._task, self._modes = task, normalization_mapping or {}
        self._tasks: Sequence[str] = ()
        self._statistics: Statistics = {}
        self._made: dict[torch.device, tuple[Any, Any]] = {}
        self.features = {}

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Take over features, statistics and tasks of the data.

        Raises:
            ConfigError: The policy is not LeRobot's, or the data set has no statistics of a feature.
        """
        self._describe(self._whole(components).config)
        missing = [name for name in self.features if name not in data.statistics]
        if missing:
            raise ConfigError(
                f"data: has no statistics of {missing[0]!r}, by which LeRobot normalizes. It has those of"
                f" {listed(list(data.statistics))}"
            )
        self._take(
            {name: dict(data.statistics[name]) for name in self.features},
            tuple(data.statistics.get("tasks", ())),
        )

    def state_dict(self) -> Mapping[str, Any]:
        """Return the facts that acting needs: features, time steps, statistics and tasks; empty before `prepare`."""
        if not self._statistics:
            return {}
        features = {name: {"type": of.type.value, "shape": list(of.shape)} for name, of in self.features.items()}
        statistics = {name: dict(of) for name, of in self._statistics.items()}
        return {
            "features": features,
            "n_obs_steps": self.n_obs_steps,
            "statistics": statistics,
            "tasks": list(self._tasks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state. A policy that was never prepared can act then.

        Raises:
            ValueError: It is that of a policy for other features.
        """
        features = {
            name: Feature(FeatureType(feature["type"]), tuple(feature["shape"]))
            for name, feature in state["features"].items()
        }
        if self.features and features != self.features:
            raise ValueError(f"it is of a policy for other data: saved {features}; now {self.features}")
        self.features, self.n_obs_steps = features, int(state["n_obs_steps"])
        self._take(state["statistics"], tuple(state["tasks"]))

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the loss and the numbers of the policy's `forward`."""
        config, preprocessor, _ = self.lerobot_parts(components)
        given = preprocessor(training_batch(config, batch, self._tasks))
        loss, values = components[REST](given)
        return Outcome({"loss": loss}, _numbers(values or {}))

    def update(self, components: nn.ModuleDict, batch: Batch, learner: Updater, step: int = 0) -> Outcome:
        """Learn from `batch`, and call the policy's own `update`, if it has one (TD-MPC moves its target there)."""
        outcome = super().update(components, batch, learner, step)
        own_update = getattr(self._whole(components), "update", None)
        if callable(own_update):
            own_update()
        return outcome

    @torch.no_grad()
    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return the policy's `predict_action_chunk` (N, T, …), in the units of the data."""
        config, preprocessor, postprocessor = self.lerobot_parts(components)
        if config.observation_delta_indices is None:
            observation = {name: value[:, -1] for name, value in observation.items()}
        whole = self._whole(components)
        whole.reset()
        whole.turn = None  # an actor's memory is gone
        chunk = whole.predict_action_chunk(preprocessor(self._observed(config, components, observation)))
        actions: Tensor = postprocessor(chunk)
        return actions

    def actor(self, components: nn.ModuleDict) -> Actor:
        """Return an actor by the policy's `select_action`, which keeps the history of observations and the actions.

        They are kept in the policy itself, so that one actor at a time acts with the same components.

        Raises:
            ConfigError: The policy reads a task, and the data set has several.
        """
        config, preprocessor, postprocessor = self.lerobot_parts(components)
        task = self._task_of(config)
        whole = self._whole(components)

        def select(observation: Batch) -> Tensor:
            given = observation_batch(config, _on(observation, components), task)
            action: Tensor = postprocessor(whole.select_action(preprocessor(given)))
            return action

        return SelectingActor(whole, select)

    def lerobot_parts(self, components: nn.ModuleDict) -> tuple[Any, Any, Any]:
        """Return the policy's config object, preprocessor and postprocessor, which are LeRobot's.

        Raises:
            ConfigError: The policy is not LeRobot's.
        """
        whole = self._whole(components)
        device = next(whole.parameters()).device
        whole.config.device = str(device)
        if device not in self._made:
            self._describe(whole.config)
            self._made[device] = processors(whole.config, self._statistics)
        return whole.config, *self._made[device]

    def _observed(self, config: Any, components: nn.ModuleDict, observation: Batch) -> dict[str, Any]:
        return observation_batch(config, _on(observation, components), self._task_of(config))

    def _task_of(self, config: Any) -> str:
        if self._task is not None or len(self._tasks) == 1:
            return self._task if self._task is not None else self._tasks[0]
        if len(self._tasks) > 1 and config.type not in WITHOUT_WORDS:
            raise ConfigError(
                f"{PATH}.params.task: required to act, as the data set has several: {listed(list(self._tasks))}"
            )
        return ""

    def _describe(self, config: Any) -> None:
        """Take over features and time steps of the policy's config object, and give it the modes of normalization."""
        if self._modes:
            from lerobot.configs.types import NormalizationMode as LeRobotsMode

            given = {kind.value: LeRobotsMode(mode.value) for kind, mode in self._modes.items()}
            config.normalization_mapping = {**config.normalization_mapping, **given}
        features = {**config.input_features, **config.output_features}
        self.features = {
            name: Feature(FeatureType(feature.type.value), tuple(feature.shape)) for name, feature in features.items()
        }
        self.n_obs_steps = 1 - min(config.observation_delta_indices or [0])

    def _take(self, statistics: Statistics, tasks: Sequence[str]) -> None:
        self._statistics, self._tasks = statistics, tasks
        self._made = {}

    def _whole(self, components: nn.ModuleDict) -> Any:
        """Return the policy. Raises ConfigError if there is none, or it is not LeRobot's."""
        whole = whole_module(components[REST]) if REST in components else None
        if not isinstance(whole, OnDemand):
            found = "there is none" if whole is None else f"got {type(whole).__name__}"
            raise ConfigError(f"{PATH}: lerobot_policy needs `model.policy: {{type: lerobot.NAME}}`; {found}.")
        return whole


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and scalar tensors among the values that `forward` returned."""
    return {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in values.items()
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def _on(observation: Batch, components: nn.ModuleDict) -> Batch:
    device = next(components.parameters()).device
    return {name: value.to(device) for name, value in observation.items()}
