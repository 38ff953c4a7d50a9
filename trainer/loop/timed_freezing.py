"""Components that are frozen in the first updates of a run."""

import math
from collections.abc import Mapping

from torch import nn

from ..config.turns import Turns
from ..interfaces.component import freeze_for_now, train_mode, unfreeze


class TimedFreezing:
    """Freezes components until their first turn: no gradients, eval mode.

    Args:
        components: The whole model.
        turns: The updates at which each component with an optimizer is stepped.
    """

    def __init__(self, components: nn.ModuleDict, turns: Mapping[str, Turns]) -> None:
        self._components = components
        self._first = {name: planned.first for name, planned in turns.items() if planned.first > 0}
        self.next_change: float = 0 if self._first else math.inf
        """The next update that freezes or unfreezes a component."""

    def apply(self, update: int) -> None:
        """Freeze the components that begin to train after update number `update`, and unfreeze the others."""
        for name, first in self._first.items():
            (freeze_for_now if update < first else unfreeze)(self._components[name])
        train_mode(self._components)
        self.next_change = min((first for first in self._first.values() if first > update), default=math.inf)
