"""The loop."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserCodeError
from ..interfaces.dataset import Batch
from ..interfaces.objective import Objective, Outcome, loss_problem, metric_problem
from ..runtime.device import on_device
from .batches import ShuffledBatches
from .data_checks import batch_problem
from .gradient_updates import GradientUpdater


@dataclass(frozen=True)
class UpdateReport:
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
        """Return the mean of each loss over all samples. Raises UserCodeError for what is no Outcome."""
        for outcome in self.outcomes:
            _check_outcome(loss_problem(outcome))
            if differ := outcome.losses.keys() ^ self.outcomes[0].losses.keys():
                _check_outcome(f"not each batch of this update has the loss {min(differ)!r}")
        return self._means([outcome.losses for outcome in self.outcomes])

    def metrics(self) -> dict[str, Tensor]:
        """Return the mean of each metric over all samples of the batches that have it.

        Metrics may be code of the user's, which runs here. Raises UserCodeError for what is no metric.
        """
        measured = [outcome.measured() for outcome in self.outcomes]
        for metrics in measured:
            _check_outcome(metric_problem(metrics))
        return self._means(measured)

    def _means(self, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        means = {}
        for name in dict.fromkeys(name for each in values for name in each):
            having = [(each[name], size) for each, size in zip(values, self.sizes, strict=True) if name in each]
            tensors, sizes = zip(*having, strict=True)
            means[name] = _mean([torch.as_tensor(value).detach() for value in tensors], sizes)
        return means


def _check_outcome(problem: str | None) -> None:
    if problem is not None:
        raise UserCodeError(f"train.objective: its update must return an Outcome of scalar tensors; {problem}")


def _mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    stacked = torch.stack(list(values))
    if not stacked.is_floating_point():  # counts, and what is true or false
        stacked = stacked.double()
    if len(set(sizes)) == 1:
        return stacked.mean(0)
    return (stacked * torch.tensor(sizes, device=stacked.device)).sum(0) / sum(sizes)


def training_loop(
    objective: Objective,
    components: nn.ModuleDict,
    batches: ShuffledBatches,
    learner: GradientUpdater,
    steps: range,
    log_every: int,
    device: torch.device,
) -> Iterator[UpdateReport]:
    """Run the updates numbered `steps` and yield a report of each."""
    update = _told_the_step(objective)
    for step in steps:
        learner.record_norms = step % log_every == 0 or step == steps[-1]
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
        yield UpdateReport(
            step=step,
            epoch=step // batches.steps_per_epoch,
            logged=learner.record_norms,
            outcomes=outcomes if learner.record_norms else (),
            sizes=sizes,
            lrs=learner.lrs_now() if learner.record_norms else {},
            grad_norms={name: norm for name, norm in learner.grad_norms.items() if name in learner.stepped},
            skipped=learner.skipped.copy() if learner.record_norms else {},
        )


def _told_the_step(objective: Objective) -> Callable[[nn.ModuleDict, Batch, GradientUpdater, int], Outcome]:
    """Return `objective.update`, which is handed the update's number if it takes that."""
    update: Any = objective.update
    parameters = inspect.signature(update).parameters
    if "step" in parameters and parameters["step"].kind is inspect.Parameter.POSITIONAL_ONLY:
        return cast("Callable[[nn.ModuleDict, Batch, GradientUpdater, int], Outcome]", update)
    if "step" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return lambda components, batch, learner, step: update(components, batch, learner, step=step)
    return lambda components, batch, learner, step: update(components, batch, learner)
