"""The run that is exported."""

from dataclasses import dataclass

from torch import nn

from ..config.schema import ExperimentConfig
from ..interfaces.objective import Objective


@dataclass(frozen=True)
class Source:
    """A trained run at one of its checkpoints."""

    config: ExperimentConfig
    step: int
    """Updates done."""
    components: nn.ModuleDict
    """The components by name, in eval mode and without gradients."""
    objective: Objective
    """The run's objective with its saved state."""
