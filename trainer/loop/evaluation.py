"""Looks at the model without leaving a trace in training."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError
from ..interfaces.component import is_frozen, train_mode
from ..interfaces.dataset import Batch, Split
from ..interfaces.objective import Objective, Outcome
from .running_statistics import statistics_of


@contextmanager
def recalibrated_batch_norm(
    objective: Objective, components: nn.ModuleDict, batches: Iterable[Batch]
) -> Iterator[None]:
    """Run the body with BatchNorm statistics measured anew over `batches`, then put the old ones back.

    The running statistics were gathered at the weights that training stepped on; averaged weights have
    statistics of their own (Defazio et al. 2024, arXiv:2405.15682). Layers that do not gather statistics in
    training (of a frozen component, or kept in eval mode by theirs) keep those that they have.
    """
    layers = _gathering_batch_norms(components)
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


def _gathering_batch_norms(components: nn.ModuleDict) -> list[_BatchNorm]:
    """Return the BatchNorm layers whose running statistics move in training."""
    train_mode(components)
    layers = [module for module in components.modules() if isinstance(module, _BatchNorm) and module.training]
    components.eval()
    return [layer for layer in layers if layer.track_running_stats]


def weights_and_statistics(components: nn.ModuleDict) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters, and the statistics of BatchNorm, of the components that are not frozen, by name."""
    for name, component in components.items():
        if is_frozen(component):
            continue
        yield from ((f"{name}.{key}", parameter) for key, parameter in component.named_parameters())
        yield from ((f"{name}.{key}", buffer) for key, buffer in statistics_of(component))


def check_means(objective: Objective, accumulate: int, held_out: Split | None, batch_size: int) -> None:
    """Raise ConfigError where batches of an objective would be averaged whose losses are not means over samples."""
    if objective.means_over_samples:
        return
    sums = f"{type(objective).__name__}.means_over_samples is false, so that batches cannot be averaged"
    if accumulate > 1:
        raise ConfigError(f"train.accumulate: must be 1; got {accumulate}. {sums}.")
    samples = 0 if held_out is None else len(held_out)
    if samples > batch_size and samples % batch_size:
        raise ConfigError(f"data.batch_size: must divide the {samples} held-out samples; got {batch_size}. {sums}.")


def named_values(outcome: Outcome) -> dict[str, Tensor]:
    """Return an outcome's values as an evaluation names them: the sum of the losses, each loss, the metrics."""
    losses = {f"loss/{name}": loss for name, loss in outcome.losses.items()}
    return {"loss": outcome.total, **losses, **outcome.measured()}


@torch.no_grad()
def evaluate(
    objective: Objective,
    components: nn.ModuleDict,
    held_out: Iterable[Batch],
    calibration: Iterable[Batch] | None,
    autocast: AbstractContextManager[object],
) -> dict[str, float]:
    """Return the means of all losses and metrics over `held_out`, and the sum of the losses as `loss`.

    A value that some batches lack is the mean over those that have it.

    calibration: training batches to measure BatchNorm statistics over, where some weights are averaged
    ones; None: the running statistics are right.
    """
    components.eval()
    sums: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    statistics = nullcontext() if calibration is None else recalibrated_batch_norm(objective, components, calibration)
    try:
        with autocast, statistics:
            for batch in held_out:
                outcome = objective.losses(components, batch)
                size = len(next(iter(batch.values())))
                for name, value in named_values(outcome).items():
                    sums[name] += float(value) * size
                    samples[name] += size
    finally:
        train_mode(components)
    return {name: total / samples[name] for name, total in sums.items()}
