"""The parts of a run, as the modules that restore and rescue it see them. The trainer is a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from optimizer import Horizon

from .checkpoint.dry_save import CheckedContents
from .checkpoint.manager import CheckpointManager
from .checkpoint.own_state import OwnState
from .config.schema import ExperimentConfig
from .distributed.world import World
from .interfaces.dataset import DataSet
from .interfaces.objective import Objective
from .loop.averaged_weights import MovingAverages
from .loop.batches import ShuffledBatches
from .loop.early_stopping import EarlyStopping
from .loop.gradient_updates import GradientUpdater
from .loop.train_means import TrainMeans


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run_dir: Path
    step: int
    """Updates done."""
    metrics: dict[str, float]
    """The metrics of the last evaluation, by name."""


class Run(Protocol):
    """A run that is being trained."""

    config: ExperimentConfig
    world: World
    data: DataSet
    objective: Objective
    components: nn.ModuleDict
    batches: ShuffledBatches
    horizon: Horizon
    fingerprint: dict[str, Any]
    updater: GradientUpdater
    averages: MovingAverages
    contents: CheckedContents
    own_state: OwnState
    provenance: dict[str, Any]
    checkpoints: CheckpointManager
    early_stopping: EarlyStopping
    train_means: TrainMeans
    step: int
    """Updates done."""
    begun: int
    """Updates that were done when the run began or was resumed."""
    metrics: dict[str, float]
    """Of the last evaluation, by name."""
    evaluation_is_due: bool
    """Whether the evaluation after `step` updates has not been done yet."""

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """The optimizers by component."""
        ...

    @property
    def sharded(self) -> list[str]:
        """The components whose state is spread over the processes."""
        ...

    def continue_alone(self) -> None:
        """Let this process save without the others."""
        ...

    def log(self, line: str) -> None:
        """Print a line."""
        ...

    def save(self, is_last: bool = False) -> None:
        """Write a checkpoint of this moment."""
        ...
