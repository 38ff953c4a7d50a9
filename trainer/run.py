"""What a run consists of, for those that look after it: the trainer is one."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from optimizer import Horizon

from .checkpoint.dry_save import CheckedContents
from .checkpoint.manager import CheckpointManager
from .checkpoint.own_state import OwnState
from .config.schema import ExperimentConfig
from .interfaces.dataset import DataSet
from .loop.batches import ShuffledBatches
from .loop.gradient_updates import GradientUpdater


class Run(Protocol):
    """step: updates done. begun: those that were done when the run began or was resumed. evaluation_is_due: whether an
    evaluation after `step` updates is still to come."""

    config: ExperimentConfig
    device: torch.device
    data: DataSet
    components: nn.ModuleDict
    batches: ShuffledBatches
    horizon: Horizon
    fingerprint: dict[str, Any]
    learner: GradientUpdater
    contents: CheckedContents
    own: OwnState
    provenance: dict[str, Any]
    saving: CheckpointManager
    step: int
    begun: int
    evaluation_is_due: bool

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """The optimizers by component."""
        ...

    def log(self, line: str) -> None:
        """Print a line."""
        ...

    def save(self, is_last: bool = False) -> None:
        """Write a checkpoint of this moment."""
        ...
