"""A schedule that runs a scheduler of PyTorch, or of another library, as its own object."""

import warnings
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from ..config.errors import refusal
from ..config.fields import PositiveNumber
from ..config.function_path import function_at
from ..types import ParamGroup
from .base import CurveSchedule
from .curve import Curve
from .torch_leaps import CosineAnnealingThenHold, can_leap, leap, quick_reach

OWN_FIELDS = {"initial_lr", "interval", "frequency", "steps_per_epoch"}

HOLDING_CLASSES: dict[type[LRScheduler], type[LRScheduler]] = {CosineAnnealingLR: CosineAnnealingThenHold}

SHORT_WAY = 16
"""Steps up to which a scheduler is stepped and does not leap."""

SLOW_STEPS = 100_000
"""Steps of a class that must be stepped, above which a warning reports their number: they take some seconds."""


class TorchSchedule(CurveSchedule):
    """Base of the schedules that run a class of torch.optim.lr_scheduler. The class checks its own options.

    The scheduler steps over a dummy optimizer with one parameter group; the optimizer's groups follow its lr in
    proportion to their own. A scheduler of PyTorch leaps to a later position, one of another library is stepped there.
    """

    absolute: ClassVar[bool] = True
    base_lr_field: ClassVar[str | None] = "initial_lr"
    scheduler_class: ClassVar[type[LRScheduler]]

    initial_lr: PositiveNumber | None = Field(None, description="The lr at the start. If omitted, the optimizer's.")

    @model_validator(mode="after")
    def _check_by_class(self) -> Self:
        self.check_values()
        if self.is_resolved():
            try:
                self.lr_at(2)  # the class reports impossible values within two steps
            except (ValueError, TypeError, ArithmeticError) as error:
                raise refusal(f"{self.scheduler_class.__name__} refuses these values: {error}") from error
        return self

    def check_values(self) -> None:
        """Check the values that the class itself does not check.

        Raises:
            ValidationError: A value is impossible.
        """

    def make(self, optimizer: Optimizer) -> LRScheduler:
        """Return PyTorch's scheduler over `optimizer`."""
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in OWN_FIELDS}
        for name in ("lr_lambda", "scale_fn"):
            if options.get(name):
                options[name] = function_at(options[name])
        make: Any = HOLDING_CLASSES.get(self.scheduler_class, self.scheduler_class)
        scheduler: LRScheduler = make(optimizer, **options)
        return scheduler

    def moves_momentum(self) -> bool:
        return bool(getattr(self, "cycle_momentum", False))

    def new_curve(self) -> Curve:
        return TorchCurve(self)

    def quick_reach(self) -> int | None:
        reach = quick_reach(self.make(_dummy_optimizer(1.0)))
        return None if reach is None else reach * self.step_length()

    def summary(self) -> str:
        fields = {name: field for name, field in type(self).model_fields.items() if name not in OWN_FIELDS}
        given = [
            f"{name} {getattr(self, name)}"
            for name, field in fields.items()
            if name != "schedulers" and getattr(self, name) != field.default
        ]
        return ", ".join([self.scheduler_class.__name__, *given])


class TorchCurve:
    """A scheduler over a dummy optimizer, which can be moved to any position."""

    _done: int
    _group: ParamGroup

    def __init__(self, schedule: TorchSchedule) -> None:
        self._schedule = schedule
        self._moves_momentum = schedule.moves_momentum()
        self._restart()

    def lr_at(self, update: int) -> float:
        if update < self._done:
            self._restart()
        ahead = update - self._done
        if ahead > SHORT_WAY and can_leap(self._scheduler):
            leap(self._scheduler, ahead)
        else:
            if ahead > SLOW_STEPS:
                name = self._schedule.scheduler_class.__name__
                warnings.warn(f"{name} is stepped {ahead} times to update {update}, which takes a while", stacklevel=2)
            for _ in range(ahead):
                self._scheduler.step()
        self._done = update
        return float(self._group["lr"])

    def momentum_at(self, update: int) -> float | None:
        if not self._moves_momentum:
            return None
        self.lr_at(update)
        return float(self._group["betas"][0])

    def _restart(self) -> None:
        dummy = _dummy_optimizer(1.0 if self._schedule.initial_lr is None else self._schedule.initial_lr)
        self._scheduler = self._schedule.make(dummy)
        self._done = 0
        self._group = dummy.param_groups[0]
        dummy.step()  # without a gradient, no effect; PyTorch warns about a scheduler stepped before its optimizer

    def __reduce__(self) -> tuple[type["TorchCurve"], tuple[TorchSchedule]]:
        return TorchCurve, (self._schedule,)  # a copy moves to the position at its first use


def _dummy_optimizer(lr: float) -> Optimizer:
    return torch.optim.Adam([torch.zeros((), requires_grad=True)], lr=lr)
