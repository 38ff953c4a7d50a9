"""`td3_bc`: TD3 with behaviour cloning."""

from typing import Unpack

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn

from optimizer.config import NonNegativeNumber

from ..interfaces.dataset import Batch
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome, Updater
from .offline_policy import Discount, OfflineOptions, OfflinePolicy, Transition, value_of


@OBJECTIVE_REGISTRY.register("td3_bc")
class TD3BC(OfflinePolicy):
    """TD3 whose actor is also drawn to the actions of the data.

    An update minimises the means of

    - critic: (reward + discount · (1 - terminal) · min Q'(s', a') - Q(s, a))², summed over the critics, where Q' and π'
      are the targets, and a' = π'(s') + noise, clipped to -1 and 1
    - actor: -alpha / mean |Q| · Q(s, π(s)) + (π(s) - a)², with the first critic, after the critics' step

    The actor takes its step at every second update with `component_optims.actor: {every: 2}`. The targets of the
    critics move with it if they have `moves_with: actor`: that is the authors' rule. Sources: Fujimoto & Gu 2021,
    arXiv:2106.06860; Fujimoto et al. 2018, arXiv:1802.09477; and the authors' code.

    Args:
        alpha: Weight of Q beside the distance from the data's actions. The paper has 2.5.
        policy_noise: Standard deviation of the noise on the target's actions.
        noise_clip: The largest noise.
        discount: The factor of the value one step later.
        target_actor: The component that is a moving average of the actor.

    Raises:
        ConfigError: Two options contradict each other.
    """

    def __init__(
        self,
        alpha: NonNegativeNumber = 2.5,
        policy_noise: NonNegativeNumber = 0.2,
        noise_clip: NonNegativeNumber = 0.5,
        discount: Discount = 0.99,
        target_actor: str = "target_actor",
        **options: Unpack[OfflineOptions],
    ) -> None:
        super().__init__(targets={target_actor: options.get("actor", "actor")}, **options)
        self._alpha, self._policy_noise, self._noise_clip = alpha, policy_noise, noise_clip
        self._discount, self._target_actor = discount, target_actor

    def update(self, components: nn.ModuleDict, batch: Batch, learner: Updater, step: int = 0) -> Outcome:
        """Step the critics, then the actor if it is its turn. The noise is from torch's generator."""
        t = self.transition(batch)
        with learner.autocast():
            critic = self._critic_loss(components, t)
        learner.step(critic, *self.critics)
        if not learner.is_due(self.acting):
            return Outcome({"critic": critic})
        with learner.autocast():
            q, distance = self._of_actor(components, t)
            actor = distance - self._alpha / learner.mean(q.detach().abs()) * q.mean()
        learner.step(actor, self.acting)
        return Outcome({"critic": critic, "actor": actor}, {"q": q.mean(), "behaviour_cloning": distance})

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the critics' loss and the actor's distance from the data, which are means over samples."""
        t = self.transition(batch)
        q, distance = self._of_actor(components, t)
        return Outcome({"critic": self._critic_loss(components, t), "behaviour_cloning": distance}, {"q": q.mean()})

    def _critic_loss(self, components: nn.ModuleDict, t: Transition) -> Tensor:
        with torch.no_grad():
            planned = self.mean_action(components[self._target_actor](*t.next_state))
            noise = (torch.randn_like(planned) * self._policy_noise).clamp(-self._noise_clip, self._noise_clip)
            following = self.lowest_q(components, t.next_state, (planned + noise).clamp(-1, 1))
        return self.td_loss(components, t, t.reward + self._discount * (1 - t.terminal) * following)

    def _of_actor(self, components: nn.ModuleDict, t: Transition) -> tuple[Tensor, Tensor]:
        """Return Q(s, π(s)) of the first critic (N), and the mean squared distance of the actor from the data."""
        acted = self.mean_action(components[self.acting](*t.state))
        return value_of(components, self.critics[0], *t.state, acted), F.mse_loss(acted, t.action)
