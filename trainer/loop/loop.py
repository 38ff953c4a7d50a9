"""The training loop."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from ..distributed.placement import forget_forward_passes
from ..distributed.world import World
from ..errors import UserCodeError
from ..interfaces.dataset import Batch
from ..interfaces.objective import Objective, Outcome
from ..runtime.devices import on_device
from ..runtime.rng import seed_all
from .batches import ShuffledBatches
from .data_checks import batch_problem
from .gradient_updates import GradientUpdater
from .update_report import UpdateReport
from .wait_timer import WaitTimer


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
    update, timer, is_alone = _update_with_step(objective), WaitTimer(), world.is_alone
    if not is_alone:
        update = _computed_together(update, world)
    for step in steps:
        updater.record_gradients = step % log_every == 0 or step == steps[-1]
        outcomes = []
        sizes = batches.sizes(step)
        if not is_alone:
            seed_all(world.seed(seed, step), world.device)
            forget_forward_passes(components.values())
        updater.begin_update(step, sizes)
        made = timer.of_update(batches.of_update(step))
        for index, size in enumerate(sizes):
            updater.begin_batch(index)
            taken = size if is_alone else len(world.taken(size))
            updater.batch = on_device(_checked(next(made), taken), world.device)
            outcomes.append(update(components, updater.batch, updater, step))
        wait = timer.end_update(updater.record_gradients)
        yield _report(updater, step // batches.steps_per_epoch, outcomes, wait, world)


def _report(
    updater: GradientUpdater, epoch: int, outcomes: Sequence[Outcome], data_wait: float, world: World
) -> UpdateReport:
    """Return the report of the update that `updater` has just made."""
    logged = updater.record_gradients
    return UpdateReport(
        step=updater.update,
        epoch=epoch,
        logged=logged,
        outcomes=outcomes if logged else (),
        sizes=updater.sizes,
        lrs=updater.current_lrs() if logged else {},
        gradient_metrics=_gradient_metrics(updater) if logged else {},
        skipped=updater.skipped.copy() if logged else {},
        data_wait=data_wait,
        world=world,
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


def _computed_together(update: _Update, world: World) -> _Update:
    """Return `update` as a function that several processes call together, each with the samples that it takes."""

    def together(components: nn.ModuleDict, batch: Batch, learner: GradientUpdater, step: int, /) -> Outcome:
        with world.computing(learner.sizes[learner.batch_index]):
            return update(components, batch, learner, step)

    return together


def _gradient_metrics(updater: GradientUpdater) -> dict[str, Tensor]:
    """Return the metrics of the last update's gradients, of the components that it stepped, by KEY/COMPONENT."""
    return {
        f"{key}/{name}": value
        for name in updater.optimizers  # in this order after a resume too
        if name in updater.stepped
        for key, value in updater.gradient_metrics.get(name, {}).items()
    }
