"""Schedules made of schedules: one after another, or multiplied."""

from abc import abstractmethod
from bisect import bisect_right
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from ..config.messages import counted
from ..config.validation import PositiveNumber, nest
from .base import SCHEDULE_REGISTRY, NestedSchedule, Schedule, resolved_at
from .curve import Curve
from .durations import Length, RelativeDuration, known
from .horizon import Horizon


class Composition(Schedule):
    """Base: factors and learning rates go together, as factors are made learning rates by the optimizer's."""

    absolute: ClassVar[bool] = True

    schedules: list[NestedSchedule] = Field(min_length=1)
    """The schedules, each {type: KEY, …}."""
    initial_lr: PositiveNumber | None = None
    """The lr that factors are multiplied with; left out, the optimizer's."""

    @model_validator(mode="after")
    def _check_pace(self) -> Self:
        if self.interval != "step" or self.frequency != 1:
            self.refuse("interval", "give interval and frequency to the schedules inside")
        return self

    def for_lr(self, lr: float) -> Self:
        lr = self.initial_lr or lr
        parts = []
        for index, schedule in enumerate(self.schedules):
            try:
                parts.append(schedule.for_lr(lr))
            except ValidationError as error:
                raise nest(error, ("schedules", index)) from None
        return self.replaced(initial_lr=lr, schedules=parts)

    def moves_momentum(self) -> bool:
        return any(schedule.moves_momentum() for schedule in self.schedules)

    def lr_at(self, update: int) -> float:
        return self.follow().lr_at(update)

    def momentum_at(self, update: int) -> float | None:
        return self.follow().momentum_at(update)

    @abstractmethod
    def follow(self) -> Curve: ...


class _Joined(Curve):
    """Curves together: what metrics do to them."""

    def __init__(self, composition: Composition) -> None:
        self._schedules = composition.schedules
        self._curves = [schedule.start() for schedule in composition.schedules]
        self._lr = composition.initial_lr or 1.0

    def monitors(self) -> set[str]:
        return set().union(*(curve.monitors() for curve in self._curves))

    def curve_state(self) -> dict[str, Any]:
        return {str(index): curve.curve_state() for index, curve in enumerate(self._curves)}

    def load_curve_state(self, state: dict[str, Any]) -> None:
        for index, curve in enumerate(self._curves):
            curve.load_curve_state(state[str(index)])


class _InTurn(_Joined):
    def __init__(self, sequence: "Sequence") -> None:
        super().__init__(sequence)
        self._starts = [0, *sequence.milestones]  # of equal ones the last has the turn

    def lr_at(self, update: int) -> float:
        turn = bisect_right(self._starts, update) - 1
        value = self._curves[turn].lr_at(update - self._starts[turn])
        return value if self._schedules[turn].absolute else value * self._lr

    def momentum_at(self, update: int) -> float | None:
        turn = bisect_right(self._starts, update) - 1
        while turn >= 0:  # where a schedule leaves momentum alone, it stays where an earlier one left it
            since = update - self._starts[turn]
            momentum = self._curves[turn].momentum_at(since) if since >= 0 else None  # < 0: a part of no updates
            if momentum is not None:
                return momentum
            update, turn = self._starts[turn] - 1, turn - 1
        return None

    def report(self, name: str, value: float, step: int) -> None:
        turn = bisect_right(self._starts, step) - 1
        if name in self._curves[turn].monitors():
            self._curves[turn].report(name, value, step - self._starts[turn])


class _Multiplied(_Joined):
    def lr_at(self, update: int) -> float:
        lr = self._lr
        for schedule, curve in zip(self._schedules, self._curves, strict=True):
            lr *= curve.lr_at(update) / (self._lr if schedule.absolute else 1.0)
        return lr

    def momentum_at(self, update: int) -> float | None:
        return next((m for curve in self._curves if (m := curve.momentum_at(update)) is not None), None)

    def report(self, name: str, value: float, step: int) -> None:
        for curve in self._curves:
            if name in curve.monitors():
                curve.report(name, value, step)


def turns(milestones: list[int]) -> list[int]:
    """Return the indices of the parts that have updates: not of one that ends where it begins."""
    starts = [0, *milestones]
    return [index for index, start in enumerate(starts) if start not in starts[index + 1 :]]


@SCHEDULE_REGISTRY.register("sequence", aliases=("join_schedules",))
class Sequence(Composition):
    """Schedules one after another, each counting from 0 where it begins.

    What a schedule takes from the length of the run (a length left out, or in per cent) it takes from the
    length of its own part. A part of no updates (milestones that start with 0, or are equal) is left out.
    """

    milestones: list[Length]
    """Updates at which the second schedule, the third … begin; 0 leaves the first one out."""

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if len(self.milestones) != len(self.schedules) - 1:
            self.refuse(
                "milestones",
                f"must be one less than the schedules; got {len(self.milestones)} for"
                f" {counted(len(self.schedules), 'schedule')}",
            )
        if known(*self.milestones) and self.milestones != sorted(self.milestones):
            self.refuse("milestones", f"must rise; got {self.milestones}")
        return self

    def resolved(self, horizon: Horizon | None) -> Self:
        milestones = [
            start.updates(horizon, "milestones") if isinstance(start, RelativeDuration) else start
            for start in self.milestones
        ]
        known_turns = turns(milestones)
        starts = [0, *(milestones[turn - 1] for turn in known_turns[1:])]
        ends = [*starts[1:], horizon.total_steps if horizon else None]
        per_epoch = horizon.steps_per_epoch if horizon else None
        parts = []
        for turn, start, end in zip(known_turns, starts, ends, strict=True):
            if end is not None and end <= start:
                self.refuse("milestones", f"must rise and lie within the run; got {milestones} in a run of {ends[-1]}")
            part = None if end is None else Horizon(end - start, per_epoch)
            parts.append(resolved_at(self.schedules[turn], part, "schedules", turn))
        return self.replaced(schedules=parts, milestones=starts[1:])

    def follow(self) -> Curve:
        return _InTurn(self)

    def summary(self) -> str:
        first, *rest = (schedule.summary() + schedule.pace_summary() for schedule in self.schedules)
        return first + "".join(f"; from {start}: {line}" for start, line in zip(self.milestones, rest, strict=True))


@SCHEDULE_REGISTRY.register("chain")
class Chain(Composition):
    """The product of schedules, all of them from update 0 on: a warm-up times a decay, say."""

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        moving = [schedule.key for schedule in self.schedules if schedule.moves_momentum()]
        if len(moving) > 1:
            self.refuse("schedules", f"only one of them may move the momentum; {' and '.join(moving)} do")
        return self

    def follow(self) -> Curve:
        return _Multiplied(self)

    def summary(self) -> str:
        return " × ".join(f"[{schedule.summary()}{schedule.pace_summary()}]" for schedule in self.schedules)
