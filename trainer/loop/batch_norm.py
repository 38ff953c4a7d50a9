"""BatchNorm's statistics at averaged weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config.schema import ExperimentConfig
from ..distributed.world import World
from ..interfaces.component import train_mode
from ..interfaces.dataset import Batch, Split
from ..interfaces.objective import Objective
from .batches import shuffled_batches

CALIBRATION_BATCHES = 50
"""Training batches that BatchNorm statistics are measured over before an evaluation at averaged weights."""


def calibration_batches(config: ExperimentConfig, split: Split, world: World) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of `split`, the training data, over which the statistics are measured.

    Each comes as the number of its samples over all processes, and those that this one takes.
    """
    batches = shuffled_batches(config, split, world)
    every = (
        sized
        for step in range(batches.steps_per_epoch)
        for sized in zip(batches.sizes(step), batches.of_update(step), strict=True)
    )
    return islice(every, CALIBRATION_BATCHES)


@contextmanager
def recalibrated_batch_norm(
    objective: Objective, components: nn.ModuleDict, batches: Iterable[tuple[int, Batch]], world: World
) -> Iterator[None]:
    """Run the body with BatchNorm statistics measured over `batches`, then restore the earlier ones.

    The running statistics were gathered at the weights that training stepped on; averaged weights need other
    statistics (Defazio et al. 2024, arXiv:2405.15682). Layers that do not gather statistics in training (those of a
    frozen component, or those that their component keeps in eval mode) are left as they are.

    Args:
        batches: As from `calibration_batches`, on the run's device.
        world: The processes of the run, which all call.
    """
    layers = _gathering_layers(components)
    kept = [({name: buffer.clone() for name, buffer in layer.named_buffers()}, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over all batches
            layer.train()
        for size, batch in batches if layers else ():  # without such layers there is nothing to measure
            with world.computing(size):
                objective.losses(components, batch)
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, (buffers, momentum) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])


def _gathering_layers(components: nn.ModuleDict) -> list[_BatchNorm]:
    """Return the BatchNorm layers whose running statistics move in training."""
    train_mode(components)
    layers = [module for module in components.modules() if isinstance(module, _BatchNorm) and module.training]
    components.eval()
    return [layer for layer in layers if layer.track_running_stats]
