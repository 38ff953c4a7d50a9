"""Schedulers of other libraries by dotted path, checked against the class's signature."""

from collections.abc import Callable
from typing import Self

from pydantic import create_model
from torch.optim.lr_scheduler import LRScheduler

from ..config.errors import refusal
from .base import SCHEDULE_REGISTRY, Schedule
from .horizon import Horizon
from .pytorch import scheduler_fields
from .torch_schedule import TorchCurve, TorchSchedule

Rebuilt = tuple[Callable[[str, dict[str, object]], object], tuple[str, dict[str, object]]]
"""The function that pickle calls to build an object again, and its arguments."""

STEPPED = 10_000
"""Steps of another library's scheduler that are tried when it is built and checked for warnings: about 0.1 s."""


class ImportedSchedule(TorchSchedule):
    """Base of the schedules of classes that are named by their dotted path."""

    def resolved(self, horizon: Horizon | None) -> Self:
        schedule = super().resolved(horizon)
        if horizon is not None:  # the scheduler may raise after its last step
            last = (horizon.total_steps - 1) // schedule.step_length()
            run = TorchCurve(schedule)
            for step in range(min(last + 1, STEPPED)):
                try:
                    run.lr_at(step)
                except Exception as error:
                    rule = f"{self.scheduler_class.__name__} fails at its step {step} of {last + 1} in the run: {error}"
                    raise refusal(rule) from error
        return schedule

    def quick_reach(self) -> int | None:
        return STEPPED * self.step_length()

    def __reduce__(self) -> Rebuilt:
        return _rebuild_schedule, (SCHEDULE_REGISTRY.key_of(type(self)), self.model_dump())


def imported_schedule(path: str, scheduler_class: type[LRScheduler]) -> type[Schedule]:
    """Return a schedule that runs `scheduler_class`, a scheduler of any library, with its arguments as fields.

    A class of PyTorch's has the schedule that is registered under its name.
    """
    if scheduler_class.__module__.startswith("torch.optim."):
        return SCHEDULE_REGISTRY[scheduler_class.__name__]
    fields = scheduler_fields(scheduler_class)
    schedule = create_model(scheduler_class.__name__, __base__=ImportedSchedule, __module__=__name__, **fields)
    schedule.__doc__ = f"{path}, run as its own object."
    schedule.scheduler_class = scheduler_class
    return schedule


def _rebuild_schedule(path: str, fields: dict[str, object]) -> object:
    return SCHEDULE_REGISTRY[path](**fields)


SCHEDULE_REGISTRY.adapt(LRScheduler, imported_schedule)
