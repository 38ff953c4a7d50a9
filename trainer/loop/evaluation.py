"""Losses and metrics on held-out data. Training is not affected."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..distributed.world import World
from ..interfaces.component import train_mode
from ..interfaces.dataset import Batch
from ..interfaces.objective import Objective, Outcome
from ..runtime.devices import on_device
from .batch_norm import recalibrated_batch_norm


def named_values(outcome: Outcome) -> dict[str, Tensor]:
    """Return an outcome's values as an evaluation names them: the sum of the losses, each loss, the metrics."""
    losses = {f"loss/{name}": loss for name, loss in outcome.losses.items()}
    return {"loss": outcome.total, **losses, **outcome.measured()}


@contextmanager
def evaluation_mode(
    objective: Objective,
    components: nn.ModuleDict,
    calibration: Iterable[Batch] | None,
    autocast: AbstractContextManager[object],
    device: torch.device,
) -> Iterator[None]:
    """Run the body, an evaluation, with the components in eval mode and without gradients.

    Args:
        calibration: Training batches to measure BatchNorm statistics over, where some weights are averaged ones;
            None: the running statistics are right.
        autocast: The context for forward passes.
        device: The run's.
    """
    components.eval()
    statistics: AbstractContextManager[object] = nullcontext()
    if calibration is not None:
        measured = (on_device(batch, device) for batch in calibration)
        statistics = recalibrated_batch_norm(objective, components, measured)
    try:
        with torch.no_grad(), autocast, statistics:
            yield
    finally:
        train_mode(components)


def evaluate(
    objective: Objective, components: nn.ModuleDict, held_out: Iterable[Batch], world: World
) -> dict[str, float]:
    """Return the means of all losses and metrics over `held_out`, and the sum of the losses as `loss`.

    A value that some batches lack is the mean over those that have it.

    Args:
        components: In eval mode.
        held_out: Batches of the held-out data, on any device.
        world: The processes of the run; each evaluates its batches, and the means are those over all.
    """
    sums: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    for batch in held_out:
        outcome = objective.losses(components, on_device(batch, world.device))
        size = len(next(iter(batch.values())))
        for name, value in named_values(outcome).items():
            sums[name] += float(value) * size
            samples[name] += size
    return {name: total / samples[name] for name, total in sums.items()}
