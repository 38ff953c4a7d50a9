"""PyTorch's own schedulers by class name, each run as PyTorch's object inside the step."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, Self, get_type_hints

import torch
from pydantic import ConfigDict, Field, create_model, model_validator
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from optimizer.schedule import SCHEDULE_REGISTRY, Curve, Schedule
from optimizer.validation import PositiveNumber, plain_type, refusal

NOT_BY_NAME = {
    "LRScheduler",  # the base class
    "LambdaLR",  # these two are made of functions, which a config cannot hold
    "MultiplicativeLR",
    "SequentialLR",  # these two are made of other schedulers
    "ChainedScheduler",
    "ReduceLROnPlateau",  # moved by a metric, not by updates
    "OneCycleLR",  # `one_cycle`, a closed form
}

ENDS = {"CosineAnnealingLR": "T_max"}
"""The fields that hold the length of a curve which would turn round after it."""


class TorchSchedule(Schedule):
    """Base of the schedules that run a class of torch.optim.lr_scheduler. The class checks its own options.

    The object steps over a stand-in optimizer with one group, whose lr every group gets its share of. It
    is exact to the last bit; a jump to a later position costs a step of PyTorch's for each update between.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)
    absolute: ClassVar[bool] = True
    scheduler_class: ClassVar[type[LRScheduler]]

    initial_lr: PositiveNumber | None = Field(None, description="The lr it starts from; left out, the optimizer's.")

    @model_validator(mode="after")
    def _check_by_class(self) -> Self:
        try:
            _TorchRun(self).try_out()
        except (ValueError, TypeError, ArithmeticError) as error:
            raise refusal(f"{self.scheduler_class.__name__} refuses these values: {error}") from error
        return self

    def for_lr(self, lr: float) -> Self:
        return self if self.initial_lr is not None else self.replaced(initial_lr=lr)

    def start(self) -> Curve:
        return _TorchRun(self)

    def lr_at(self, update: int) -> float:
        return _TorchRun(self).lr_at(update)

    def summary(self) -> str:
        given = [f"{name} {getattr(self, name)}" for name in type(self).model_fields if name in self.model_fields_set]
        return ", ".join([self.scheduler_class.__name__, *given])


class _TorchRun:
    """PyTorch's scheduler over a stand-in optimizer, moved to any position."""

    def __init__(self, schedule: TorchSchedule) -> None:
        self._schedule = schedule
        self._end: int | None = getattr(schedule, ENDS.get(type(schedule).scheduler_class.__name__, ""), None)
        self._restart()

    def lr_at(self, update: int) -> float:
        position = update if self._end is None else min(update, self._end)
        if position < self._scheduler.last_epoch:
            self._restart()
        while self._scheduler.last_epoch < position:
            self._scheduler.step()
        return float(self._group["lr"])

    def momentum_at(self, update: int) -> float | None:
        self.lr_at(update)
        return float(self._group["betas"][0]) if getattr(self._schedule, "cycle_momentum", False) else None

    def try_out(self) -> None:
        """Take two steps, at which the class's own mistakes show."""
        self._scheduler.step()
        self._scheduler.step()

    def _restart(self) -> None:
        stand_in = torch.optim.Adam([torch.zeros((), requires_grad=True)], lr=self._schedule.initial_lr or 1.0)
        options = self._schedule.model_dump(exclude={"initial_lr"})
        make: Any = self._schedule.scheduler_class
        self._scheduler: LRScheduler = make(stand_in, **options)
        self._group = stand_in.param_groups[0]
        stand_in.step()  # no gradient, no effect; PyTorch warns of a scheduler stepped before its optimizer

    def __reduce__(self) -> Any:
        return _TorchRun, (self._schedule,)  # a copy finds its position by itself


def torch_schedule(scheduler_class: type[LRScheduler]) -> type[TorchSchedule]:
    """Return a schedule of `scheduler_class` whose fields are the class's arguments, with its defaults."""
    names = {"Callable": Callable, "Iterable": Iterable, "Sequence": Sequence, "Literal": Literal, "Any": Any}
    hints = get_type_hints(scheduler_class.__init__, localns=names)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(scheduler_class).parameters.items():
        if name not in ("optimizer", "last_epoch", "scale_fn"):
            default = ... if parameter.default is parameter.empty else parameter.default
            meaning = f"See torch.optim.lr_scheduler.{scheduler_class.__name__}."
            fields[name] = (plain_type(hints[name]), Field(default, description=meaning))
    made = create_model(scheduler_class.__name__, __base__=TorchSchedule, __module__=__name__, **fields)
    made.__doc__ = f"torch.optim.lr_scheduler.{scheduler_class.__name__}."
    made.scheduler_class = scheduler_class
    return made


def _register_all() -> None:
    for name, cls in sorted(vars(lr_scheduler).items()):
        if isinstance(cls, type) and issubclass(cls, LRScheduler) and name[0] != "_" and name not in NOT_BY_NAME:
            globals()[name] = SCHEDULE_REGISTRY.register(name)(torch_schedule(cls))  # where pickle looks for it


_register_all()
