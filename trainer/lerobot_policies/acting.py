"""Acting by a policy of LeRobot's, which keeps its own history of observations and queue of actions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..interfaces.dataset import Batch


class SelectingActor:
    """Acts by `select_action`.

    Args:
        policy: The policy, with `reset`. Its attribute `turn` is the actor's that acts with it.
        select: Returns the actions (N, …) for observations (N, …), by way of `select_action`.
    """

    def __init__(self, policy: Any, select: Callable[[Batch], Tensor]) -> None:
        self._policy, self._select = policy, select
        self._turn: object = None

    def reset(self) -> None:
        """Let the policy forget the episodes before, also those of another actor."""
        self._policy.reset()
        self._turn = self._policy.turn = object()

    @torch.no_grad()
    def act(self, observation: Batch) -> Tensor:
        """Return the next action (N, …).

        Raises:
            ValueError: Another actor has acted with the same components since `reset`.
        """
        if self._turn is None:
            self.reset()
        if self._policy.turn is not self._turn:
            raise ValueError("another actor acts with these components. Reset this one first, or load the run again.")
        action: Tensor = self._select(observation)
        return action
