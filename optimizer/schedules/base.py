"""The base class of schedules: validated, pure functions of the update count."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from ..charts import Panel, Series, svg
from ..config.registry import Registry
from ..config.tagged_field import TaggedField
from ..config.validation import Config, PositiveCount, nest, refusal
from .curve import Curve, PacedCurve
from .durations import RelativeDuration
from .horizon import Horizon
from .sampling import sample_steps

NOTEBOOK = Horizon(total_steps=1000, steps_per_epoch=100)
"""The run over which a notebook draws a curve."""


class Schedule(Config, Curve, ABC):
    """The values of an optimizer's lr, or of another option, by update. Update k counts from 0 and runs at lr_at(k).

    Attributes:
        absolute: Whether `lr_at` returns a learning rate, from which each parameter group gets its share, or a factor
            on each group's own lr.
        length_field: The field that is the length of the run if it is omitted; None: there is no such field.
        jumps: Whether sudden changes are the purpose of the schedule.

    Examples:
        A custom schedule is a class with fields and `lr_at`.

        >>> from optimizer import Schedule
        >>> class Halving(Schedule):
        ...     absolute = False  # a factor on the lr
        ...     every: int = 10
        ...     def lr_at(self, step: int) -> float:
        ...         return 0.5 ** (step // self.every)
        >>> [Halving(every=4).lr_at(k) for k in (0, 3, 4, 8)]
        [1.0, 1.0, 0.5, 0.25]
    """

    absolute: ClassVar[bool]
    length_field: ClassVar[str | None] = None
    jumps: ClassVar[bool] = False

    interval: Literal["step", "epoch"] = "step"
    """Unit of a step of the schedule: an update, or an epoch. In epochs, the value changes only at their ends."""
    frequency: PositiveCount = 1
    """Updates or epochs in a step of the schedule."""
    steps_per_epoch: PositiveCount | None = None
    """Updates in an epoch. If omitted, the number in one pass over the data."""

    @abstractmethod
    def lr_at(self, step: int) -> float:
        """Return the learning rate, or the factor, at a step.

        Args:
            step: The number of the update, from 0; with `interval: epoch` or a `frequency`, the number of the step.
        """

    def resolved(self, horizon: Horizon | None) -> Self:
        """Return this schedule with omitted and relative lengths replaced by numbers of steps.

        Args:
            horizon: The length of the run; None if it is unknown.

        Raises:
            ValidationError: A length needs a horizon that is not given, or does not fit into it.

        Examples:
            >>> from optimizer import SCHEDULE_REGISTRY, Horizon
            >>> schedule = SCHEDULE_REGISTRY["cosine"](num_warmup_steps="5%").resolved(Horizon(total_steps=1000))
            >>> schedule.num_warmup_steps, schedule.num_training_steps
            (50, 1000)
        """
        pace = self.pace(horizon)
        changes: dict[str, Any] = {}
        if self.interval == "epoch":
            changes["steps_per_epoch"] = pace // self.frequency
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name == self.length_field and value is None and (horizon or self.needs_length()):
                changes[name] = -(-total_steps_from(horizon, name) // pace)
            elif isinstance(value, RelativeDuration):
                changes[name] = round(value.updates(horizon, name, self.steps_per_epoch) / pace)
            elif isinstance(value, list) and any(isinstance(item, RelativeDuration) for item in value):
                known = self.steps_per_epoch
                changes[name] = [
                    round(item.updates(horizon, name, known) / pace) if isinstance(item, RelativeDuration) else item
                    for item in value
                ]
            elif isinstance(value, list) and any(isinstance(item, Schedule) for item in value):
                if pace != 1 and not all(item.is_resolved() for item in value):
                    self.refuse(name, "with interval or frequency outside, lengths inside must be plain numbers")
                changes[name] = [resolved_at(item, horizon, name, index) for index, item in enumerate(value)]
        return self.replaced(**changes) if changes else self

    def moves_momentum(self) -> bool:
        """Return whether the schedule also moves the momentum (beta1)."""
        return False

    def needs_length(self) -> bool:
        """Return whether `length_field` must be known."""
        return True

    def inner_schedules(self) -> list["Schedule"]:
        """Return the schedules inside this one."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [item for value in values if isinstance(value, list) for item in value if isinstance(item, Schedule)]

    def may_jump(self) -> bool:
        """Return whether sudden changes are the purpose of this schedule or of one inside."""
        return self.jumps or any(schedule.may_jump() for schedule in self.inner_schedules())

    def rise_length(self) -> int:
        """Return the steps before the decay if a field holds their number, else 0."""
        steps = getattr(self, "num_warmup_steps", 0)
        return steps if isinstance(steps, int) else 0

    def quick_reach(self) -> int | None:
        """Return the number of updates whose values are quick to compute; None if all are."""
        reaches = [reach for schedule in self.inner_schedules() if (reach := schedule.quick_reach()) is not None]
        return min(reaches) * self.pace() if reaches else None

    def is_resolved(self) -> bool:
        """Return whether every length, here and in the schedules inside, is a plain number."""
        values = [getattr(self, name) for name in type(self).model_fields]
        items = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return all(
            item.is_resolved() if isinstance(item, Schedule) else not isinstance(item, RelativeDuration)
            for item in items
        )

    def for_lr(self, lr: float) -> Self:
        """Return this schedule for an optimizer with the lr `lr`."""
        return self

    def start(self) -> Curve:
        """Return the curve of one optimizer, a function of its updates."""
        pace = self.pace(None)
        return self.follow() if pace == 1 else PacedCurve(self.follow(), pace)

    def follow(self) -> Curve:
        """Return the curve as a function of the schedule's steps. A pure schedule is its own curve."""
        return self

    def summary(self) -> str:
        """Return one short line for the plan that describes the curve."""
        return self.key

    def pace_summary(self) -> str:
        """Return the length of the schedule's steps as text for the plan; empty if each is an update."""
        if self.interval == "step" and self.frequency == 1:
            return ""
        unit = "update" if self.interval == "step" else "epoch"
        return f", moves every {unit if self.frequency == 1 else f'{self.frequency} {unit}s'}"

    @property
    def key(self) -> str:
        """The key under which this schedule is registered."""
        return SCHEDULE_REGISTRY.key_of(type(self))

    def _repr_svg_(self) -> str | None:
        """Return the curve as an SVG for a notebook; None without matplotlib."""
        resolved = self.resolved(NOTEBOOK)
        curve, updates = resolved.start(), sample_steps(NOTEBOOK.total_steps)
        series = Series(self.key, [(update, curve.lr_at(update)) for update in updates])
        label = "learning rate" if self.absolute else "factor on the lr"
        try:
            return svg([Panel(f"{self.key}: {resolved.summary()}", label, [series])])
        except ImportError:
            return None

    def config(self) -> dict[str, Any]:
        """Return the flat dict from which this schedule can be built again: its key as `type`, and its fields."""
        pace = {"interval": "step", "frequency": 1, "steps_per_epoch": None}
        fields = self.model_dump()
        usual = {name for name, default in pace.items() if fields[name] == default}
        return {"type": self.key, **{name: value for name, value in fields.items() if name not in usual}}

    def pace(self, horizon: Horizon | None = None) -> int:
        """Return the number of updates in a step of the schedule.

        Raises:
            ValidationError: `interval` is epoch, and neither `steps_per_epoch` nor `horizon` holds the epoch's length.
        """
        if self.interval == "step":
            return self.frequency
        per_epoch = self.steps_per_epoch or (horizon.steps_per_epoch if horizon else None)
        if per_epoch is None:
            self.refuse(
                "steps_per_epoch", "not given, and there is no horizon to take it from; interval: epoch needs it"
            )
        return self.frequency * per_epoch


SCHEDULE_REGISTRY: Registry[Schedule] = Registry("schedule", Schedule, entry_points="innerstep.schedules")


def resolved_at(schedule: Schedule, horizon: Horizon | None, field: str, index: int) -> Schedule:
    """Return `schedule.resolved(horizon)`.

    Raises:
        ValidationError: As `resolved` raises it, its path below `field` and `index`.
    """
    try:
        return schedule.resolved(horizon)
    except ValidationError as error:
        raise nest(error, (field, index)) from None


def total_steps_from(horizon: Horizon | None, field: str) -> int:
    """Return the horizon's total_steps.

    Raises:
        ValidationError: At `field`, if `horizon` is None.
    """
    if horizon is None:
        rule = "not given, and there is no horizon to take it from; give it, or build(params, horizon=Horizon(…))"
        raise refusal(rule, (field,))
    return horizon.total_steps


def short(value: float) -> str:
    """Return `value` in scientific notation without trailing zeros, such as 2.5e-03; inf and nan unchanged."""
    mantissa, point, exponent = f"{value:.2e}".partition("e")
    if not point:
        return mantissa
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}" if value else "0"


AnySchedule = Annotated[Schedule, TaggedField(SCHEDULE_REGISTRY, Schedule, "constant", listed=True)]
NestedSchedule = Annotated[Schedule, TaggedField(SCHEDULE_REGISTRY, Schedule, "constant", listed=False)]
