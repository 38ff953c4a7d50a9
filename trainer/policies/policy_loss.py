"""`policy_loss`: the loss that a policy computes itself, for any module in `model.policy`."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..interfaces.features import Feature
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome
from ..interfaces.policy import Actor
from ..splitting.parts import REST, whole_module
from .actors import ObservationHistory
from .component_policy import ComponentPolicy
from .feature_options import PATH, READABLE, PolicyOptions, check_inputs

_ACTING = ("predict_action_chunk", "select_action")
"""The methods that a module can act by; the first one that it has is taken."""


@OBJECTIVE_REGISTRY.register("policy_loss")
class PolicyLoss(ComponentPolicy):
    """Takes the loss that the policy's own forward pass returns for a batch: a scalar, or a scalar and metrics by name.

    Metrics are numbers and tensors of one element; others are left out with a warning.

    The batch has every entry of the data set's samples, its features normalized. To act, the module needs
    `predict_action_chunk(batch)`, which returns normalized actions (N, T, *shape) from now on, or
    `select_action(batch)`, which returns those for now (N, *shape) and is called at each time step, after `reset()` at
    the start of an episode if the module has one. For data without features nothing is normalized.

    Raises:
        ConfigError: Two options contradict each other, or there is a `wiring`.
    """

    def __init__(self, **options: Unpack[PolicyOptions]) -> None:
        if options.get("wiring"):
            raise ConfigError(f"{PATH}.wiring: must be left out: the policy's own forward pass wires it")
        super().__init__(**options)
        self._timeless: Sequence[str] = ()
        self._left_out: set[str] = set()
        """The metrics that were reported as left out."""

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Take features, time steps and statistics from the data, if they have features.

        Raises:
            ConfigError: The data do not fit the options.
        """
        _require_policy(components)
        if not data.features:
            self._refuse_options(data)
            return
        super().prepare(components, data)
        sample = data.train.batch(torch.zeros(1, dtype=torch.int64))
        self._timeless = [name for name, each in self.features.items() if sample[name].dim() == len(each.shape) + 1]

    def state_dict(self) -> Mapping[str, Any]:
        """Return features, modes, time steps and statistics; empty for data without features."""
        state = super().state_dict()
        return {**state, "timeless": list(self._timeless)} if state else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state. A policy that was never prepared can act then.

        Raises:
            ValueError: The policy was prepared for other features, modes, or time steps, or has other options.
        """
        if state:
            super().load_state_dict(state)
            self._timeless = list(state["timeless"])

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the loss and the metrics that the policy returns for the batch."""
        _require_policy(components)
        returned = components[REST](self.normalization.normalize(batch) if self.features else batch)
        loss, metrics = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not isinstance(metrics, Mapping | None):
            raise ConfigError(
                f"model.policy: its forward(batch) must return a loss, a scalar tensor, or a loss and metrics by name;"
                f" got {_description(returned)}"
            )
        scalars = _scalars(metrics or {})
        self._report_left_out({name: value for name, value in (metrics or {}).items() if name not in scalars})
        return Outcome({"loss": loss}, scalars)

    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return the predicted actions from now on (N, T, *shape) in the units of the data.

        Raises:
            ConfigError: The module has no method to act with, or the data had no features.
        """
        policy = whole_module(components[REST])
        acts = [name for name in _ACTING if hasattr(policy, name)]
        if not acts:
            raise ConfigError(
                f"model.policy: to act, {type(policy).__name__} needs a method predict_action_chunk(batch) or"
                " select_action(batch), which returns normalized actions"
            )
        if not self.features:
            raise ConfigError("model.policy: to act, it needs a data set with features")
        observed = self.normalization.normalize(self.observed(components, observation))
        batch = {name: value[:, 0] if name in self._timeless else value for name, value in observed.items()}
        predicted: Tensor = getattr(policy, acts[0])(batch)
        predicted = predicted.unsqueeze(1) if acts[0] == _ACTING[1] else predicted
        return self.normalization.unnormalize(self.action, predicted)

    def actor(self, components: nn.ModuleDict) -> Actor:
        """Return an actor by `n_action_steps` or `temporal_ensemble_coeff`, or by the policy's `select_action`."""
        policy = whole_module(components[REST])
        if [hasattr(policy, name) for name in _ACTING] == [False, True]:
            return ObservationHistory(_Selecting(self, components), self.n_obs_steps)
        return super().actor(components)

    def _refuse_options(self, data: DataSet) -> None:
        """Raise ConfigError if an option is given: each one is about features, which the data do not have."""
        for name, value in self._options.items():
            if value is not None:
                also = " (model.policy.normalization)" if name == "normalization_mapping" else ""
                raise ConfigError(
                    f"{PATH}.{name}{also}: needs a data set with features; {type(data).__name__} has none."
                    " Leave it out."
                )

    def _report_left_out(self, metrics: Mapping[str, object]) -> None:
        """Warn once of each metric that is not a scalar."""
        for name, value in metrics.items():
            if name not in self._left_out:
                self._left_out.add(name)
                warnings.warn(
                    f"model.policy: the metric {name!r} of its forward is left out: it must be a number or a tensor of"
                    f" one element; got {_description(value)}",
                    UserWarning,
                    stacklevel=2,
                )

    def _used_features(
        self, components: Sequence[str], known: Mapping[str, Feature], batch: Batch
    ) -> dict[str, Feature]:
        """Return all features that a policy may read, and the action."""
        action = self._action_feature(known, batch)
        inputs = [name for name in known if known[name].type in READABLE and name in batch and name != self.action]
        check_inputs(self._options, inputs)
        return {name: known[name] for name in inputs} | action

    def _facts_by_options(self, features: Mapping[str, Feature]) -> dict[str, Any]:
        return self._modes_by_options(features)


class _Selecting:
    """Acts by the policy's `select_action`, at each time step."""

    def __init__(self, policy: PolicyLoss, components: nn.ModuleDict) -> None:
        self._policy, self._components = policy, components

    def reset(self) -> None:
        """Let the policy forget the episode, if it remembers any."""
        if callable(reset := getattr(whole_module(self._components[REST]), "reset", None)):
            reset()

    @torch.no_grad()
    def act(self, observation: Batch) -> Tensor:
        """Return the actions (N, …) for now."""
        return self._policy.actions(self._components, observation)[:, 0]


def _require_policy(components: Iterable[str]) -> None:
    if REST not in components:
        raise ConfigError("train.objective.type: policy_loss needs a model.policy, or a component called policy")


def _scalars(metrics: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the numbers and tensors of one element among `metrics`, detached."""
    return {
        name: torch.as_tensor(value).detach()
        for name, value in metrics.items()
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def _description(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value)}"
    return f"a {type(value).__name__}"
