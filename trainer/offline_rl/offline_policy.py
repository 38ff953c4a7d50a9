"""The base of `iql` and `td3_bc`: normalized transitions, the components by name, and acting."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar, TypedDict, Unpack

import torch
from pydantic import Field
from torch import Tensor, nn

from optimizer.config import listed, nearest

from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..policies.component_policy import ComponentPolicy
from ..policies.feature_options import PATH
from ..policies.normalization import Normalization, NormalizationMode
from ..runtime.precision import at_least_float32
from .recorded import ACTION, NEXT, REWARD, TERMINAL

STD_EPS = 1e-3
"""Added to the standard deviation of an observation with MEAN_STD, as in TD3+BC's code."""

Names = Annotated[list[str], Field(min_length=1)]
Discount = Annotated[float, Field(ge=0, le=1)]


class OfflineOptions(TypedDict, total=False):
    """Options that the objectives of offline reinforcement learning share. None is required."""

    observations: Names
    """The observations that all networks read, in this order; left out: [observation.state]."""
    actor: str
    """The component that acts; left out: actor."""
    critics: Names
    """The components for Q(s, a); left out: [critic_1, critic_2]."""
    target_critics: Names
    """Their moving averages, in the same order; left out: [target_critic_1, target_critic_2]."""
    normalization_mapping: Mapping[str, NormalizationMode]
    """Modes by type of feature or by name. Left out: STATE and ENV have MEAN_STD with 1e-3 added to the standard
    deviation, and ACTION has MIN_MAX. IDENTITY is for actions that are within -1 and 1 already."""


@dataclass(frozen=True)
class Transition:
    """The transitions of a batch, with states and actions normalized."""

    state: tuple[Tensor, ...]
    """One tensor (N, …) an observation."""
    action: Tensor
    """(N, size), within -1 and 1."""
    reward: Tensor
    """(N)."""
    next_state: tuple[Tensor, ...]
    terminal: Tensor
    """(N), 1 where no reward follows."""


class OfflinePolicy(ComponentPolicy):
    """Learns from transitions, and acts by one component.

    The actor's actions are within -1 and 1, and are put into the units of the data by the mode of the action.

    Args:
        values: The components for V(s).
        targets: The component that each moving average is of, beside those of the critics.
        options: The user's.

    Raises:
        ConfigError: Two options contradict each other.
    """

    steps_in_turn: ClassVar[bool] = True

    def __init__(
        self, values: Sequence[str] = (), targets: Mapping[str, str] | None = None, **options: Unpack[OfflineOptions]
    ) -> None:
        self.observations = options.get("observations", ["observation.state"])
        self.acting = options.get("actor", "actor")
        self.critics = options.get("critics", ["critic_1", "critic_2"])
        self.target_critics = options.get("target_critics", ["target_critic_1", "target_critic_2"])
        if len(self.critics) != len(self.target_critics):
            raise ConfigError(
                f"{PATH}.target_critics: must be one for each of {listed(self.critics)}; got"
                f" {listed(self.target_critics)}"
            )
        self._values = values
        self._targets = {**(targets or {}), **dict(zip(self.target_critics, self.critics, strict=True))}
        modes = {"ACTION": NormalizationMode.MIN_MAX, **options.get("normalization_mapping", {})}
        wiring = [f"action = {self.acting}({', '.join(self.observations)})"]
        super().__init__(wiring=wiring, normalization_mapping=modes)

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Check the components and the data, and take features and statistics from the data."""
        batch = data.train.batch(torch.zeros(1, dtype=torch.int64))
        self._check_batch(batch, data)
        self._check_components(components, batch)
        super().prepare(components, data)
        self._check_bounds(data)
        self.normalization = Normalization(self.features, self._modes, self._statistics(data))

    def targets(self) -> Mapping[str, str]:
        """Return the target critics and other averages."""
        return self._targets

    def always_stepped(self) -> Collection[str]:
        """Return all that learn but the actor, whose loss is not part of theirs."""
        return [*self._values, *self.critics]

    def wired(self, components: Sequence[str]) -> Sequence[str]:
        """Return the actor alone: losses use the others."""
        return [self.acting]

    def transition(self, batch: Batch) -> Transition:
        """Return the normalized transitions of a batch."""
        normalized = self.normalization
        return Transition(
            tuple(normalized(name, batch[name]) for name in self.observations),
            normalized(ACTION, batch[ACTION]),
            batch[REWARD],
            tuple(normalized(name, batch[NEXT + name]) for name in self.observations),
            batch[TERMINAL],
        )

    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return the action for now (N, 1, *shape), in the units of the data; the mean of an actor with a Gaussian."""
        seen = self.inputs(self.observed(components, observation))
        output = components[self.acting](*(seen[name][:, 0] for name in self.observations))
        return self.from_now_on(self.mean_action(output).clamp(-1, 1).unsqueeze(1))

    def mean_action(self, output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return the normalized actions (N, *shape) of the actor's output: actions, or (mean, log_std).

        Raises:
            ConfigError: They have another shape, or it is something else.
        """
        path, is_pair = f"model.components.{self.acting}", isinstance(output, tuple) and len(output) == 2
        mean: object = output[0] if is_pair else output
        if not isinstance(mean, Tensor) or (is_pair and not isinstance(output[1], Tensor)):
            raise ConfigError(f"{path}: must return the actions, or (mean, log_std); got {_named_type(output)}")
        if mean.shape[1:] != self.features[ACTION].shape:
            expected = [len(mean), *self.features[ACTION].shape]
            raise ConfigError(f"{path}: must return the actions, {expected}; got {list(mean.shape)}")
        return at_least_float32(mean)

    def lowest_q(self, components: nn.ModuleDict, state: Sequence[Tensor], action: Tensor) -> Tensor:
        """Return the lowest Q(s, a) of the target critics (N)."""
        return torch.stack([value_of(components, name, *state, action) for name in self.target_critics]).amin(dim=0)

    def td_loss(self, components: nn.ModuleDict, t: Transition, target: Tensor) -> Tensor:
        """Return the mean of (Q(s, a) - target)², summed over the critics."""
        errors = [value_of(components, name, *t.state, t.action) - target for name in self.critics]
        return torch.stack([error.square().mean() for error in errors]).sum()

    def _check_batch(self, batch: Batch, data: DataSet) -> None:
        """Raise ConfigError if the batches are not transitions of one time step."""
        names = (*self.observations, ACTION, REWARD, *(NEXT + name for name in self.observations), TERMINAL)
        if missing := [name for name in names if name not in batch]:
            raise ConfigError(
                f"data: {type(self).__name__} learns from transitions, and the batches have no {missing[0]!r}"
                f"{nearest(missing[0], list(batch))} They have {listed(list(batch))}. The data set `transitions` makes"
                " such batches."
            )
        for name in names:
            shape, feature = batch[name].shape[1:], data.features.get(name.removeprefix(NEXT))
            expected = () if name in (REWARD, TERMINAL) else shape if feature is None else feature.shape
            if shape != expected:
                raise ConfigError(
                    f"data: {name!r} must have the shape {[1, *expected]} in a batch of one transition; got"
                    f" {[1, *shape]}."
                )

    def _check_components(self, components: nn.ModuleDict, batch: Batch) -> None:
        """Raise ConfigError if a component is missing, is left over, or has two roles."""
        roles = [self.acting, *self._values, *self.critics, *self._targets]
        if twice := [name for name in roles if roles.count(name) > 1]:
            raise ConfigError(f"{PATH}: the component {twice[0]!r} is named twice. Give each role its own component.")
        for name in roles:
            if name not in components:
                raise ConfigError(
                    f"model.components: {type(self).__name__} needs {name!r}{nearest(name, list(components))} Add, for"
                    f" example:\n  {self._example(name, batch)}"
                )
        if left_over := [name for name in components if name not in roles]:
            raise ConfigError(
                f"model.components.{left_over[0]}: {type(self).__name__} does not use it; it uses {listed(roles)}."
                f" Remove it, or give its name in {PATH}."
            )

    def _example(self, name: str, batch: Batch) -> str:
        """Return a line of YAML for a component."""
        if name in self._targets:
            return f"{name}: {{ema_of: {self._targets[name]}, tau: 0.005}}"
        action = prod(batch[ACTION].shape[1:])
        size = sum(prod(batch[seen].shape[1:]) for seen in self.observations) + action * (name in self.critics)
        sizes = f"in_features: {size}, out_features: {action if name == self.acting else 1}, hidden: [256, 256]"
        tanh = ", tanh: true" if name == self.acting else ""
        return f"{name}: {{type: mlp, params: {{{sizes}, activation: relu{tanh}}}}}"

    def _check_bounds(self, data: DataSet) -> None:
        """Raise ConfigError if normalized actions may be beyond -1 and 1."""
        mode = self._modes[ACTION]
        if mode is NormalizationMode.MIN_MAX:
            return
        place = f"{PATH}.normalization_mapping: the mode of the action"
        if mode is not NormalizationMode.IDENTITY:
            raise ConfigError(f"{place} must be MIN_MAX or IDENTITY, as the actor is bounded by -1 and 1; got {mode}.")
        found = data.statistics.get(ACTION, {})
        if "min" in found and (found["min"].min() < -1 or found["max"].max() > 1):
            low, high = float(found["min"].min()), float(found["max"].max())
            raise ConfigError(f"{place} must be MIN_MAX, as the data's actions are from {low:g} to {high:g}.")

    def _statistics(self, data: DataSet) -> dict[str, object]:
        """Return the data's statistics, with STD_EPS added to each standard deviation of an observation."""
        of = {name: data.statistics.get(name, {}) for name in self.features}
        return {
            name: {**values, "std": values["std"] + STD_EPS} if name != ACTION and "std" in values else values
            for name, values in of.items()
        }


def value_of(components: nn.ModuleDict, name: str, *inputs: Tensor) -> Tensor:
    """Return the values (N) that a component gives for its inputs, at least float32.

    Raises:
        ConfigError: It does not give one number a sample.
    """
    value: object = components[name](*inputs)
    if not isinstance(value, Tensor):
        raise ConfigError(f"model.components.{name}: must return one number a sample; got {_named_type(value)}")
    if value.shape not in ((len(inputs[0]),), (len(inputs[0]), 1)):
        raise ConfigError(
            f"model.components.{name}: must return one number a sample, {[len(inputs[0]), 1]}; got {list(value.shape)}"
        )
    return at_least_float32(value.reshape(-1))


def _named_type(output: object) -> str:
    size = f" of {len(output)}" if isinstance(output, tuple) else ""
    return f"a {type(output).__name__}{size}"
