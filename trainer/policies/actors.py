"""Actors: a policy that acts, and wrappers with the memory that it needs of an episode.

The order is `ObservationHistory(ActionQueue(PolicyActor(…), …), …)`: the history is outermost, so that it records each
time step, also those at which the policy is not asked.
"""

from collections import deque

import torch
from torch import Tensor, nn

from ..interfaces.dataset import Batch
from ..interfaces.policy import Actor, Policy


class PolicyActor:
    """Returns the policy's whole prediction (N, T, …) for observations (N, n_obs_steps, …). It remembers nothing."""

    def __init__(self, policy: Policy, components: nn.ModuleDict) -> None:
        self._policy, self._components = policy, components

    def reset(self) -> None:
        """Do nothing."""

    @torch.no_grad()
    def act(self, observation: Batch) -> Tensor:
        """Return the actions (N, T, …)."""
        return self._policy.actions(self._components, observation)


class ObservationHistory:
    """Adds the time steps before to the observations: (N, …) becomes (N, n_obs_steps, …) for `actor`.

    At the start of an episode, its first observation stands in the place of earlier ones, as in the data.

    Args:
        actor: Acts by the observations of `n_obs_steps` time steps, the last of which is now.
        n_obs_steps: Time steps, at least 1.
    """

    def __init__(self, actor: Actor, n_obs_steps: int) -> None:
        _require_positive("n_obs_steps", n_obs_steps)
        self._actor, self._n_obs_steps = actor, n_obs_steps
        self._history: Batch = {}

    def reset(self) -> None:
        """Forget the observations."""
        self._history = {}
        self._actor.reset()

    def act(self, observation: Batch) -> Tensor:
        """Record the observation, and return the actor's answer to the history.

        Raises:
            ValueError: There are more or fewer environments than at the time step before.
        """
        if self._history:
            _require_same_environments(_environments(self._history), observation)
        self._history = {name: self._extended(name, value.unsqueeze(1)) for name, value in observation.items()}
        return self._actor.act(self._history)

    def _extended(self, name: str, now: Tensor) -> Tensor:
        before = self._history.get(name)
        if before is None:
            return now.repeat_interleave(self._n_obs_steps, dim=1)
        return torch.cat([before[:, 1:], now], dim=1)


class ActionQueue:
    """Carries out the first actions of each prediction one at a time, before it asks for the next one.

    Args:
        actor: Returns predictions (N, T, …).
        n_action_steps: Actions of each prediction that are carried out, from 1 to T.
    """

    def __init__(self, actor: Actor, n_action_steps: int) -> None:
        _require_positive("n_action_steps", n_action_steps)
        self._actor, self._n_action_steps = actor, n_action_steps
        self._queue: deque[Tensor] = deque()

    def reset(self) -> None:
        """Forget the actions."""
        self._queue.clear()
        self._actor.reset()

    def act(self, observation: Batch) -> Tensor:
        """Return the next action (N, …).

        Raises:
            ValueError: The prediction has fewer than `n_action_steps` actions, or there are more or fewer environments
                than at the time of the prediction.
        """
        if self._queue:
            _require_same_environments(len(self._queue[0]), observation)
        else:
            prediction = self._actor.act(observation)
            if prediction.shape[1] < self._n_action_steps:
                raise ValueError(
                    f"n_action_steps: must be from 1 to {prediction.shape[1]}, the actions of a prediction;"
                    f" got {self._n_action_steps}"
                )
            self._queue.extend(prediction[:, : self._n_action_steps].unbind(dim=1))
        return self._queue.popleft()


class TemporalEnsemble:
    """Asks for a prediction at each time step, and averages all that was predicted for it.

    The weights are exp(-coefficient · i), and i = 0 is the oldest prediction. A positive coefficient gives more weight
    to older predictions. Source: Zhao et al. 2023, arXiv:2304.13705, Algorithm 2.

    Args:
        actor: Returns predictions (N, T, …).
        coefficient: 0.01 in the paper.
    """

    def __init__(self, actor: Actor, coefficient: float) -> None:
        self._actor, self._coefficient = actor, coefficient
        self._predictions: list[Tensor] = []

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions = []
        self._actor.reset()

    def act(self, observation: Batch) -> Tensor:
        """Return the average action (N, …) for this time step.

        Raises:
            ValueError: There are more or fewer environments than at the time step before.
        """
        if self._predictions:
            _require_same_environments(len(self._predictions[0]), observation)
        # Each time step removes the first action of the earlier predictions: action 0 is for now in all of them.
        earlier = [actions[:, 1:] for actions in self._predictions if actions.shape[1] > 1]
        self._predictions = [*earlier, self._actor.act(observation)]
        now = torch.stack([actions[:, 0] for actions in self._predictions], dim=-1)
        weights = torch.exp(-self._coefficient * torch.arange(now.shape[-1], dtype=now.dtype, device=now.device))
        return (now * weights).sum(dim=-1) / weights.sum()


def _environments(observation: Batch) -> int:
    return len(next(iter(observation.values())))


def _require_same_environments(before: int, observation: Batch) -> None:
    if (now := _environments(observation)) != before:
        raise ValueError(f"reset the actor before it acts in another number of environments; got {now} after {before}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: must be at least 1; got {value}")
