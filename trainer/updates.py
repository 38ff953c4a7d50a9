"""The loop."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.data import Batch, ShuffledBatches
from trainer.learner import Learner
from trainer.objective import Objective, Outcome


@dataclass(frozen=True)
class Report:
    """What an update did. step: its number, from 0. logged: whether it is to go into the metrics.
    outcome: detached. lrs, grad_norms: by component. Outcome and norms are those of a logged update only."""

    step: int
    epoch: int
    logged: bool
    outcome: Outcome | None
    lrs: dict[str, float]
    grad_norms: dict[str, Tensor]


def updates(
    objective: Objective,
    components: nn.ModuleDict,
    batches: ShuffledBatches,
    learner: Learner,
    steps: range,
    log_every: int,
    device: torch.device,
) -> Iterator[Report]:
    """Run the updates numbered `steps` and yield a report of each."""
    for step in steps:
        learner.measuring = step % log_every == 0 or step == steps[-1]
        outcome = objective.update(components, on_device(batches.batch(step), device), learner)
        yield Report(
            step=step,
            epoch=step // batches.steps_per_epoch,
            logged=learner.measuring,
            outcome=_detached(outcome) if learner.measuring else None,
            lrs=learner.lrs.copy(),
            grad_norms=learner.grad_norms.copy(),
        )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _detached(outcome: Outcome) -> Outcome:
    losses = {name: loss.detach() for name, loss in outcome.losses.items()}
    return Outcome(losses, {name: metric.detach() for name, metric in outcome.measured().items()})
