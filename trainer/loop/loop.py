"""The training loop."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..distributed.world import World
from ..errors import UserCodeError
from ..interfaces.dataset import Batch
from ..interfaces.objective import Objective, Outcome, loss_problem, metric_problem
from ..runtime.devices import on_device
from ..runtime.rng import seed_all
from .batches import ShuffledBatches
from .data_checks import batch_problem
from .gradient_updates import GradientUpdater
from .wait_timer import WaitTimer


@dataclass(frozen=True)
class UpdateReport:
    """The result of an update, over all its batches. Without `logged` only step, epoch and sizes are filled in."""

    step: int
    """The number of the update, from 0."""
    epoch: int
    logged: bool
    """Whether the update goes into the metrics."""
    outcomes: Sequence[Outcome]
    """One a batch. Their tensors are detached when they are read."""
    sizes: Sequence[int]
    """Samples of each batch."""
    lrs: dict[str, float]
    """By component."""
    gradient_metrics: dict[str, Tensor]
    """Scalars, by the key in a line of metrics: `grad_norm/COMPONENT`, the L2 norm before clipping."""
    skipped: dict[str, int]
    """How many updates each component has skipped so far."""
    data_wait: float
    """Share of the time of the updates since the last logged one, this one included, that they waited for batches."""

    def losses(self) -> dict[str, Tensor]:
        """Return the mean of each loss over all samples.

        Raises:
            UserCodeError: The objective returned something else than an Outcome of scalar tensors.
        """
        for outcome in self.outcomes:
            _check_outcome(loss_problem(outcome))
            if differ := outcome.losses.keys() ^ self.outcomes[0].losses.keys():
                _check_outcome(f"not each batch of this update has the loss {min(differ)!r}")
        return self._means([outcome.losses for outcome in self.outcomes])

    def metrics(self) -> dict[str, Tensor]:
        """Return the mean of each metric over all samples of the batches that have it.

        Metrics may be the user's code, which runs here.

        Raises:
            UserCodeError: A metric is not a scalar.
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
            means[name] = _weighted_mean([torch.as_tensor(value).detach() for value in tensors], sizes)
        return means


def _check_outcome(problem: str | None) -> None:
    if problem is not None:
        raise UserCodeError(f"train.objective: its update must return an Outcome of scalar tensors; {problem}")


def _weighted_mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    stacked = torch.stack(list(values))
    if not stacked.is_floating_point():  # counts and booleans
        stacked = stacked.double()
    if len(set(sizes)) == 1:
        return stacked.mean(0)
    return (stacked * torch.tensor(sizes, device=stacked.device)).sum(0) / sum(sizes)


class _Update(Protocol):
    """`Objective.update`, by position."""

    def __call__(self, components: nn.ModuleDict, batch: Batch, learner: GradientUpdater, step: int, /) -> Outcome: ...


def training_loop(
    objective: Objective,
    components: nn.ModuleDict,
    batches: ShuffledBatches,
    updater: GradientUpdater,
    steps: range,
    log_every: int,
    world: World,
    seed: int = 0,
) -> Iterator[UpdateReport]:
    """Run updates and yield a report of each.

    Args:
        steps: The numbers of the updates.
        log_every: Updates between two that are logged; the last one is logged too.
        world: The processes of the run; batches are moved to the device of this one.
        seed: The run's, for the random numbers that several processes draw in an update.
    """
    update, timer = _update_with_step(objective), WaitTimer()
    for step in steps:
        updater.record_gradients = step % log_every == 0 or step == steps[-1]
        outcomes = []
        sizes = batches.sizes(step)
        if not world.is_alone:
            seed_all(world.seed(seed, step))
        updater.begin_update(step, sizes)
        made = timer.of_update(batches.of_update(step))
        for index, size in enumerate(sizes):
            updater.begin_batch(index)
            updater.batch = on_device(_checked(next(made), len(world.taken(size))), world.device)
            outcomes.append(update(components, updater.batch, updater, step))
        updater.end_update()
        yield UpdateReport(
            step=step,
            epoch=step // batches.steps_per_epoch,
            logged=updater.record_gradients,
            outcomes=outcomes if updater.record_gradients else (),
            sizes=sizes,
            lrs=updater.current_lrs() if updater.record_gradients else {},
            gradient_metrics=_gradient_metrics(updater) if updater.record_gradients else {},
            skipped=updater.skipped.copy() if updater.record_gradients else {},
            data_wait=timer.end_update(updater.record_gradients),
        )


def _checked(batch: Batch, size: int) -> Batch:
    if problem := batch_problem(batch, size):
        raise UserCodeError(f"data: {problem}")
    return batch


def _update_with_step(objective: Objective) -> _Update:
    """Return `objective.update` as a function that is given the update's number, and passes it on if it is accepted."""
    update: Callable[..., Outcome] = objective.update
    parameters = inspect.signature(update).parameters
    if "step" in parameters and parameters["step"].kind is inspect.Parameter.POSITIONAL_ONLY:
        return cast("_Update", update)
    if "step" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return lambda components, batch, learner, step: update(components, batch, learner, step=step)
    return lambda components, batch, learner, step: update(components, batch, learner)


def _gradient_metrics(updater: GradientUpdater) -> dict[str, Tensor]:
    """Return the metrics of the last update's gradients, of the components that it stepped, by KEY/COMPONENT."""
    return {
        f"{key}/{name}": value
        for name, metrics in updater.gradient_metrics.items()
        if name in updater.stepped
        for key, value in metrics.items()
    }
