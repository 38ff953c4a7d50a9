"""`iql`: implicit Q-learning."""

import math
from typing import Annotated, Unpack

import torch
from pydantic import Field
from torch import Tensor, nn

from optimizer.config import PositiveNumber

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome, Updater
from ..runtime.precision import at_least_float32
from .offline_policy import Discount, OfflineOptions, OfflinePolicy, Transition, value_of

Expectile = Annotated[float, Field(gt=0, lt=1)]


@OBJECTIVE_REGISTRY.register("iql")
class IQL(OfflinePolicy):
    """Implicit Q-learning: values of the actions in the data alone, and an actor that imitates the good ones.

    With the advantage A = min Q'(s, a) - V(s), where Q' are the target critics, an update minimises the means of

    - value: |expectile - 1(A < 0)| · A²
    - actor: min(exp(temperature · A), max_weight) · -log π(a | s), with the V of after the first step
    - critic: (reward + discount · (1 - terminal) · V(s') - Q(s, a))², summed over the critics

    one after another. The actor returns (mean, log_std) of a Gaussian, as `gaussian_mlp` does, or the action alone:
    then |π(s) - a|² stands in the place of -log π(a | s). Source: Kostrikov et al. 2021, arXiv:2110.06169, and the
    authors' code. The authors leave states as they are: `normalization_mapping: {STATE: IDENTITY}`.

    Args:
        expectile: 0.5 gives the mean of the values, more gives more weight to the better actions. The paper has 0.7,
            and 0.9 for AntMaze.
        temperature: The inverse temperature β: 0 imitates all actions alike. The paper has 3, and 10 for AntMaze.
        discount: The factor of the value one step later.
        max_weight: The largest weight of an action.
        value: The component for V(s).

    Raises:
        ConfigError: Two options contradict each other.
    """

    def __init__(
        self,
        expectile: Expectile = 0.7,
        temperature: Annotated[float, Field(ge=0)] = 3.0,
        discount: Discount = 0.99,
        max_weight: PositiveNumber = 100.0,
        value: str = "value",
        **options: Unpack[OfflineOptions],
    ) -> None:
        super().__init__(values=[value], **options)
        self._expectile, self._temperature, self._discount = expectile, temperature, discount
        self._max_weight, self._value = max_weight, value

    def update(self, components: nn.ModuleDict, batch: Batch, learner: Updater, step: int = 0) -> Outcome:
        """Step the value, then the actor if it is its turn, then the critics."""
        t = self.transition(batch)
        with torch.no_grad(), learner.autocast():
            q = self.lowest_q(components, t.state, t.action)
        with learner.autocast():
            advantage = q - value_of(components, self._value, *t.state)
            losses = {"value": self._value_loss(advantage)}
        learner.step(losses["value"], self._value)
        if learner.is_due(self.acting):
            with learner.autocast():
                losses["actor"] = self._actor_loss(components, t, q)
            learner.step(losses["actor"], self.acting)
        with learner.autocast():
            losses["critic"] = self._critic_loss(components, t)
        learner.step(losses["critic"], *self.critics)
        return Outcome(losses, lambda: {"q": q.mean(), "advantage": advantage.mean()})

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the three losses, all at the same weights."""
        t = self.transition(batch)
        q = self.lowest_q(components, t.state, t.action)
        advantage = q - value_of(components, self._value, *t.state)
        losses = {
            "value": self._value_loss(advantage),
            "actor": self._actor_loss(components, t, q),
            "critic": self._critic_loss(components, t),
        }
        return Outcome(losses, {"q": q.mean(), "advantage": advantage.mean()})

    def _value_loss(self, advantage: Tensor) -> Tensor:
        weight = torch.where(advantage < 0, 1 - self._expectile, self._expectile)
        return (weight * advantage.square()).mean()

    def _actor_loss(self, components: nn.ModuleDict, t: Transition, q: Tensor) -> Tensor:
        with torch.no_grad():
            advantage = q - value_of(components, self._value, *t.state)
            weight = (self._temperature * advantage).exp().clamp(max=self._max_weight)
        output = components[self.acting](*t.state)
        distance = (self.mean_action(output) - t.action).square()
        if not isinstance(output, Tensor):
            log_std = at_least_float32(output[1])
            distance = distance / (2 * (2 * log_std).exp()) + log_std + 0.5 * math.log(2 * math.pi)
            if distance.shape != t.action.shape:
                raise ConfigError(
                    f"model.components.{self.acting}: log_std must fit the actions, {list(t.action.shape)}; got"
                    f" {list(log_std.shape)}"
                )
        return (weight * distance.flatten(1).sum(dim=1)).mean()

    def _critic_loss(self, components: nn.ModuleDict, t: Transition) -> Tensor:
        with torch.no_grad():
            following = value_of(components, self._value, *t.next_state)
        return self.td_loss(components, t, t.reward + self._discount * (1 - t.terminal) * following)
