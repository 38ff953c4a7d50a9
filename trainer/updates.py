"""The loop."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.batches import ShuffledBatches
from trainer.data import Batch
from trainer.data_checks import batch_problem
from trainer.device import on_device
from trainer.errors import UserCodeError
from trainer.learner import Learner
from trainer.objective import Objective, Outcome


@dataclass(frozen=True)
class Report:
    """What an update did, over all its batches. step: its number, from 0. logged: whether it goes into the metrics.
    outcomes: of its batches, detached when read; sizes: their samples. lrs, grad_norms: by component. skipped: updates
    that each component has skipped so far. All but the sizes are there in a logged update only."""

    step: int
    epoch: int
    logged: bool
    outcomes: Sequence[Outcome]
    sizes: Sequence[int]
    lrs: dict[str, float]
    grad_norms: dict[str, Tensor]
    skipped: dict[str, int]

    def losses(self) -> dict[str, Tensor]:
        """Return the mean of each loss over all samples."""
        return self._means([outcome.losses for outcome in self.outcomes])

    def metrics(self) -> dict[str, Tensor]:
        """Return the mean of each metric over all samples. Metrics may be code of the user's, which runs here."""
        return self._means([outcome.measured() for outcome in self.outcomes])

    def _means(self, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: self._mean([each[name].detach() for each in values]) for name in values[0]}

    def _mean(self, values: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(values))
        if len(set(self.sizes)) == 1:
            return stacked.mean(0)
        return (stacked * torch.tensor(self.sizes, device=stacked.device)).sum(0) / sum(self.sizes)


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
    update = _told_the_step(objective)
    for step in steps:
        learner.measuring = step % log_every == 0 or step == steps[-1]
        outcomes = []
        sizes = batches.sizes(step)
        learner.begin_update(step, sizes)
        made = batches.of_update(step)
        for index in range(len(sizes)):
            learner.begin_batch(index)
            batch = next(made)
            if problem := batch_problem(batch, sizes[index]):
                raise UserCodeError(f"data: {problem}")
            learner.batch = on_device(batch, device)
            outcomes.append(update(components, learner.batch, learner, step))
        yield Report(
            step=step,
            epoch=step // batches.steps_per_epoch,
            logged=learner.measuring,
            outcomes=outcomes if learner.measuring else (),
            sizes=sizes,
            lrs=learner.lrs_now() if learner.measuring else {},
            grad_norms={name: norm for name, norm in learner.grad_norms.items() if name in learner.stepped},
            skipped=learner.skipped.copy() if learner.measuring else {},
        )


def _told_the_step(objective: Objective) -> Callable[[nn.ModuleDict, Batch, Learner, int], Outcome]:
    """Return `objective.update`, which is handed the update's number if it takes that."""
    update: Any = objective.update
    parameters = inspect.signature(update).parameters
    if "step" in parameters and parameters["step"].kind is inspect.Parameter.POSITIONAL_ONLY:
        return cast("Callable[[nn.ModuleDict, Batch, Learner, int], Outcome]", update)
    if "step" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return lambda components, batch, learner, step: update(components, batch, learner, step=step)
    return lambda components, batch, learner, step: update(components, batch, learner)
