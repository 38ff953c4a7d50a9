"""BatchNorm's statistics at averaged weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config.schema import ExperimentConfig
from ..interfaces.component import train_mode
from ..interfaces.dataset import Batch, Split
from ..interfaces.objective import Objective
from .batches import shuffled_batches

CALIBRATION_BATCHES = 50
"""Training batches that BatchNorm statistics are measured over before an evaluation at averaged weights."""


def calibration_batches(config: ExperimentConfig, split: Split) -> Iterator[Batch]:
    """Yield the batches of `split`, the training data, over which the statistics are measured."""
    batches = shuffled_batches(config, split)
    return islice(chain.from_iterable(map(batches.of_update, range(batches.steps_per_epoch))), CALIBRATION_BATCHES)


@contextmanager
def recalibrated_batch_norm(
    objective: Objective, components: nn.ModuleDict, batches: Iterable[Batch]
) -> Iterator[None]:
    """Run the body with BatchNorm statistics measured over `batches`, then restore the earlier ones.

    The running statistics were gathered at the weights that training stepped on; averaged weights need other
    statistics (Defazio et al. 2024, arXiv:2405.15682). Layers that do not gather statistics in training (those of a
    frozen component, or those that their component keeps in eval mode) are left as they are.
    """
    layers = _gathering_layers(components)
    kept = [({name: buffer.clone() for name, buffer in layer.named_buffers()}, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over all batches
            layer.train()
        for batch in batches if layers else ():  # without such layers there is nothing to measure
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
