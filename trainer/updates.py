"""The loop."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.batches import ShuffledBatches
from trainer.data import Batch
from trainer.learner import Learner
from trainer.objective import Objective, Outcome


@dataclass(frozen=True)
class Report:
    """What an update did, over all its batches. step: its number, from 0. logged: whether it is to go into the metrics.
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
        outcomes, count = [], batches.count(step)
        for index, batch in enumerate(batches.of_update(step)):
            learner.begin_batch(index, count)
            outcomes.append(objective.update(components, on_device(batch, device), learner))
        yield Report(
            step=step,
            epoch=step // batches.steps_per_epoch,
            logged=learner.measuring,
            outcome=_mean(outcomes) if learner.measuring else None,
            lrs=learner.lrs.copy(),
            grad_norms=learner.grad_norms.copy(),
        )


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    losses = [outcome.losses for outcome in outcomes]
    return Outcome(_means(losses), _means([outcome.measured() for outcome in outcomes]))


def _means(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name].detach() for each in values]).mean(0) for name in values[0]}
