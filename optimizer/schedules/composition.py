"""Schedules of schedules: one after another, or multiplied."""

from bisect import bisect_right
from typing import ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from ..config.errors import nest
from ..config.fields import PositiveNumber
from ..config.messages import counted
from ..types import StateDict
from .base import SCHEDULE_REGISTRY, AnySchedule, CurveSchedule, resolved_at
from .curve import Curve, MetricCurve
from .durations import Duration, all_resolved, updates_of
from .horizon import Horizon


class Composition(CurveSchedule):
    """Base of the schedules of schedules. A factor is multiplied by the optimizer's lr, so that both kinds combine."""

    absolute: ClassVar[bool] = True
    base_lr_field: ClassVar[str | None] = "initial_lr"

    schedules: list[AnySchedule] = Field(min_length=1)
    """The schedules, each written as {type: KEY, …}."""
    initial_lr: PositiveNumber | None = None
    """The lr by which factors are multiplied. If omitted, the optimizer's."""

    @model_validator(mode="after")
    def _check_step_length(self) -> Self:
        if self.interval != "step" or self.frequency != 1:
            self.refuse("interval", "give interval and frequency to the schedules inside")
        return self

    def with_base_lr(self, base_lr: float) -> Self:
        initial_lr = self.initial_lr or base_lr
        inner = []
        for index, schedule in enumerate(self.schedules):
            try:
                inner.append(schedule.with_base_lr(initial_lr))
            except ValidationError as error:
                raise nest(error, ("schedules", index)) from None
        return self.replaced(initial_lr=initial_lr, schedules=inner)

    def moves_momentum(self) -> bool:
        return any(schedule.moves_momentum() for schedule in self.schedules)

    def momentum_at(self, update: int) -> float | None:
        return self.new_curve().momentum_at(update)


class _CompositionCurve(MetricCurve):
    """Base of the curves of several schedules: forwards metrics to the schedules and saves their state."""

    def __init__(self, composition: Composition) -> None:
        self._schedules = composition.schedules
        self._states = [schedule.bind() for schedule in composition.schedules]
        self._lr = composition.initial_lr or 1.0

    def monitors(self) -> set[str]:
        return set().union(*(state.monitors() for state in self._states))

    def metric_state(self) -> StateDict:
        return {str(index): inner.metric_state() for index, inner in enumerate(self._states)}

    def load_metric_state(self, state: StateDict) -> None:
        for index, inner in enumerate(self._states):
            inner.load_metric_state(state[str(index)])


class _SequenceCurve(_CompositionCurve):
    def __init__(self, sequence: "Sequence") -> None:
        super().__init__(sequence)
        self._starts = [0, *sequence.milestones]  # of equal starts the last one counts

    def lr_at(self, update: int) -> float:
        index = bisect_right(self._starts, update) - 1
        value = self._states[index].lr_at(update - self._starts[index])
        return value if self._schedules[index].absolute else value * self._lr

    def momentum_at(self, update: int) -> float | None:
        index = bisect_right(self._starts, update) - 1
        while index >= 0:  # a schedule that does not set momentum keeps the value of the one before it
            since = update - self._starts[index]
            momentum = self._states[index].momentum_at(since) if since >= 0 else None  # < 0: it has no updates
            if momentum is not None:
                return momentum
            update, index = self._starts[index] - 1, index - 1
        return None

    def report(self, name: str, value: float, update: int) -> None:
        index = bisect_right(self._starts, update) - 1
        if name in self._states[index].monitors():
            self._states[index].report(name, value, update - self._starts[index])


class _ChainCurve(_CompositionCurve):
    def lr_at(self, update: int) -> float:
        lr = self._lr
        for schedule, state in zip(self._schedules, self._states, strict=True):
            lr *= state.lr_at(update) / (self._lr if schedule.absolute else 1.0)
        return lr

    def momentum_at(self, update: int) -> float | None:
        return next((m for state in self._states if (m := state.momentum_at(update)) is not None), None)

    def report(self, name: str, value: float, update: int) -> None:
        for state in self._states:
            if name in state.monitors():
                state.report(name, value, update)


def active_indices(milestones: list[int]) -> list[int]:
    """Return the indices of the schedules that have updates: those that end after they begin."""
    starts = [0, *milestones]
    return [index for index, start in enumerate(starts) if start not in starts[index + 1 :]]


@SCHEDULE_REGISTRY.register("sequence", aliases=("join_schedules",))
class Sequence(Composition):
    """Schedules one after another, each counting its updates from 0.

    A length that is omitted, or a share ("5%"), refers to the part of the run that its schedule covers. A schedule
    without updates (milestones that start with 0, or are equal) is skipped.

    Formula:
        lr(k) = value_i(k - b_i), for b_i <= k < b_(i+1), if schedule i is absolute;
        lr(k) = initial_lr * value_i(k - b_i), if it is a factor;
        with b_0 = 0 and the milestones b_1, b_2, ...

    Source: optax.join_schedules; the closed form of torch.optim.lr_scheduler.SequentialLR, for any schedules.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> warmup = {"type": "constant_with_warmup", "num_warmup_steps": 10}
        >>> decay = {"type": "cosine", "num_training_steps": 100}
        >>> schedule = SCHEDULE_REGISTRY["sequence"](schedules=[warmup, decay], milestones=[10], initial_lr=1e-3)
        >>> [round(schedule.lr_at(k), 6) for k in (0, 5, 10, 60, 110, 1000)]
        [0.0, 0.0005, 0.001, 0.0005, 0.0, 0.0]
    """

    milestones: list[Duration]
    """Updates at which the second schedule, the third … begin; a first milestone of 0 skips the first schedule."""

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if len(self.milestones) != len(self.schedules) - 1:
            self.refuse(
                "milestones",
                f"must be one less than the schedules; got {len(self.milestones)} for"
                f" {counted(len(self.schedules), 'schedule')}",
            )
        if all_resolved(*self.milestones) and self.milestones != sorted(self.milestones):
            self.refuse("milestones", f"must rise; got {self.milestones}")
        return self

    def resolved(self, horizon: Horizon | None) -> Self:
        milestones = [updates_of(start, horizon, "milestones") for start in self.milestones]
        active = active_indices(milestones)
        starts = [0, *(milestones[index - 1] for index in active[1:])]
        ends = [*starts[1:], horizon.total_steps if horizon else None]
        per_epoch = horizon.steps_per_epoch if horizon else None
        schedules = []
        for index, start, end in zip(active, starts, ends, strict=True):
            if end is not None and end <= start:
                self.refuse("milestones", f"must rise and lie within the run; got {milestones} in a run of {ends[-1]}")
            inner_horizon = None if end is None else Horizon(end - start, per_epoch)
            schedules.append(resolved_at(self.schedules[index], inner_horizon, "schedules", index))
        return self.replaced(schedules=schedules, milestones=starts[1:])

    def new_curve(self) -> Curve:
        return _SequenceCurve(self)

    def summary(self) -> str:
        first, *rest = (schedule.full_summary() for schedule in self.schedules)
        return first + "".join(f"; from {start}: {line}" for start, line in zip(self.milestones, rest, strict=True))


@SCHEDULE_REGISTRY.register("chain")
class Chain(Composition):
    """The product of schedules that all start at update 0, a warm-up times a decay for example.

    Formula:
        lr(k) = initial_lr * factor_1(k) * factor_2(k) * ...;
        an absolute schedule has the factor lr_i(k) / initial_lr.

    Source: torch.optim.lr_scheduler.ChainedScheduler, in closed form and for any schedules.

    Examples:
        >>> from optimizer import SCHEDULE_REGISTRY
        >>> warmup = {"type": "constant_with_warmup", "num_warmup_steps": 10}
        >>> drops = {"type": "step", "step_size": 30, "gamma": 0.5}
        >>> schedule = SCHEDULE_REGISTRY["chain"](schedules=[warmup, drops], initial_lr=1e-3)
        >>> [round(schedule.lr_at(k), 6) for k in (0, 5, 10, 30, 60)]
        [0.0, 0.0005, 0.001, 0.0005, 0.00025]
    """

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        moving = [schedule.key for schedule in self.schedules if schedule.moves_momentum()]
        if len(moving) > 1:
            self.refuse("schedules", f"only one of them may move the momentum; {' and '.join(moving)} do")
        return self

    def new_curve(self) -> Curve:
        return _ChainCurve(self)

    def summary(self) -> str:
        return " × ".join(f"[{schedule.full_summary()}]" for schedule in self.schedules)
