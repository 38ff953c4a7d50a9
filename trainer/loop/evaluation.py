"""Losses and metrics on held-out data. Training is not affected."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..distributed.world import World
from ..interfaces.component import train_mode
from ..interfaces.dataset import Batch, Split
from ..interfaces.objective import Objective, Outcome
from ..runtime.devices import on_device
from .batch_norm import recalibrated_batch_norm
from .batches import in_order
from .sample_means import SampleMeans


def named_values(outcome: Outcome) -> dict[str, Tensor]:
    """Return an outcome's values as an evaluation names them: the sum of the losses, each loss, the metrics."""
    losses = {f"loss/{name}": loss for name, loss in outcome.losses.items()}
    return {"loss": outcome.total, **losses, **outcome.measured()}


@contextmanager
def evaluation_mode(
    objective: Objective,
    components: nn.ModuleDict,
    calibration: Iterable[tuple[int, Batch]] | None,
    autocast: AbstractContextManager[object],
    world: World,
) -> Iterator[None]:
    """Run the body, an evaluation, with the components in eval mode and without gradients.

    Args:
        calibration: Training batches to measure BatchNorm statistics over, where some weights are averaged ones, as
            from `calibration_batches`; None: the running statistics are right.
        autocast: The context for forward passes.
        world: The processes of the run, which all call.
    """
    components.eval()
    statistics: AbstractContextManager[object] = nullcontext()
    if calibration is not None:
        measured = ((size, on_device(batch, world.device)) for size, batch in calibration)
        statistics = recalibrated_batch_norm(objective, components, measured, world)
    try:
        with torch.no_grad(), autocast, statistics:
            yield
    finally:
        train_mode(components)


def evaluate(
    objective: Objective, components: nn.ModuleDict, split: Split, batch_size: int, world: World
) -> dict[str, float]:
    """Return the means of all losses and metrics over `split`, and the sum of the losses as `loss`.

    A value that some batches lack is the mean over those that have it.

    Args:
        components: In eval mode.
        split: The held-out data.
        batch_size: Samples a batch, over all processes.
        world: The processes of the run, which all call: each computes its samples of each batch, and gets the means
            over all.
    """
    means = SampleMeans()
    for size, batch in in_order(split, batch_size, world.place):
        with world.computing(size):
            outcome = objective.losses(components, on_device(batch, world.device))
            for name, value in named_values(outcome).items():
                means.add(name, float(value), len(world.share(size)))
    return means.over(world)
