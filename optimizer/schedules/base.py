"""What a schedule is: a validated, pure function of the update count."""

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
"""How long the run is that a notebook shows a curve over, where nothing says it."""


class Schedule(Config, Curve, ABC):
    """The values that an optimizer's lr (or another option) takes from update to update. Update k counts from 0.

    absolute: whether `lr_at` is a learning rate, of which a parameter group with an lr of its own gets
    its share, or a factor on every group's own lr. length_field: the field that is the length of the run
    if it is left out. jumps: whether sudden changes are what the schedule is for.
    """

    absolute: ClassVar[bool]
    length_field: ClassVar[str | None] = None
    jumps: ClassVar[bool] = False

    interval: Literal["step", "epoch"] = "step"
    """What one step of the schedule is: an update, or an epoch, at whose end alone the value changes."""
    frequency: PositiveCount = 1
    """Updates or epochs that one step of the schedule takes."""
    steps_per_epoch: PositiveCount | None = None
    """Updates in an epoch; left out, the data's."""

    @abstractmethod
    def lr_at(self, step: int) -> float:
        """Return the learning rate (or the factor) at `step`: the update's number, unless `interval` or
        `frequency` make the schedule's steps longer than an update."""

    def resolved(self, horizon: Horizon | None) -> Self:
        """Return this schedule with what was left out, or is relative, taken from `horizon`.

        Raises ValidationError where something is missing still, or does not fit the horizon.
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
        """Return whether the schedule moves the momentum (beta1) too."""
        return False

    def needs_length(self) -> bool:
        """Return whether `length_field` must be known."""
        return True

    def inner_schedules(self) -> list["Schedule"]:
        """Return the schedules that this one is made of."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [item for value in values if isinstance(value, list) for item in value if isinstance(item, Schedule)]

    def may_jump(self) -> bool:
        """Return whether sudden changes are what this schedule, or one inside, is for."""
        return self.jumps or any(schedule.may_jump() for schedule in self.inner_schedules())

    def rise_length(self) -> int:
        """Return the steps before the decay, where a field says how many they are; otherwise 0."""
        steps = getattr(self, "num_warmup_steps", 0)
        return steps if isinstance(steps, int) else 0

    def quick_reach(self) -> int | None:
        """Return the updates that can be looked at quickly; None: all, as each costs the same wherever it is."""
        reaches = [reach for schedule in self.inner_schedules() if (reach := schedule.quick_reach()) is not None]
        return min(reaches) * self.pace() if reaches else None

    def is_resolved(self) -> bool:
        """Return whether every length, here and in schedules inside, is a plain number."""
        values = [getattr(self, name) for name in type(self).model_fields]
        items = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return all(
            item.is_resolved() if isinstance(item, Schedule) else not isinstance(item, RelativeDuration)
            for item in items
        )

    def for_lr(self, lr: float) -> Self:
        """Return this schedule for an optimizer whose own lr is `lr`."""
        return self

    def start(self) -> Curve:
        """Return the curve for one optimizer to follow, by the number of its updates."""
        pace = self.pace(None)
        return self.follow() if pace == 1 else PacedCurve(self.follow(), pace)

    def follow(self) -> Curve:
        """Return the curve in the schedule's own steps. A pure function is its own curve."""
        return self

    def summary(self) -> str:
        """Return the curve in one short line, as the plan shows it."""
        return self.key

    def pace_summary(self) -> str:
        """Return how long the schedule's steps are, as the plan shows it; nothing if each is an update."""
        if self.interval == "step" and self.frequency == 1:
            return ""
        unit = "update" if self.interval == "step" else "epoch"
        return f", moves every {unit if self.frequency == 1 else f'{self.frequency} {unit}s'}"

    @property
    def key(self) -> str:
        """The key under which this schedule is registered."""
        return SCHEDULE_REGISTRY.key_of(type(self))

    def _repr_svg_(self) -> str | None:
        """Return the curve as a notebook shows it: a picture, or nothing without matplotlib."""
        resolved = self.resolved(NOTEBOOK)
        curve, updates = resolved.start(), sample_steps(NOTEBOOK.total_steps)
        series = Series(self.key, [(update, curve.lr_at(update)) for update in updates])
        label = "learning rate" if self.absolute else "factor on the lr"
        try:
            return svg([Panel(f"{self.key}: {resolved.summary()}", label, [series])])
        except ImportError:
            return None

    def config(self) -> dict[str, Any]:
        """Return the flat dict that builds this schedule again: its key as `type`, and its fields."""
        pace = {"interval": "step", "frequency": 1, "steps_per_epoch": None}
        fields = self.model_dump()
        usual = {name for name, default in pace.items() if fields[name] == default}
        return {"type": self.key, **{name: value for name, value in fields.items() if name not in usual}}

    def pace(self, horizon: Horizon | None = None) -> int:
        """Return the updates that one step of the schedule takes."""
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
    """Return `schedule` resolved, with `field` and `index` before the path of an error."""
    try:
        return schedule.resolved(horizon)
    except ValidationError as error:
        raise nest(error, (field, index)) from None


def total_steps_from(horizon: Horizon | None, field: str) -> int:
    """Return the horizon's total_steps for `field`. Raises ValidationError there if there is no horizon."""
    if horizon is None:
        rule = "not given, and there is no horizon to take it from; give it, or build(params, horizon=Horizon(…))"
        raise refusal(rule, (field,))
    return horizon.total_steps


def short(value: float) -> str:
    """Return `value` in scientific notation without needless zeros: 2.5e-03; inf and nan as they are."""
    mantissa, point, exponent = f"{value:.2e}".partition("e")
    if not point:
        return mantissa
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}" if value else "0"


AnySchedule = Annotated[Schedule, TaggedField(SCHEDULE_REGISTRY, Schedule, "constant", listed=True)]
NestedSchedule = Annotated[Schedule, TaggedField(SCHEDULE_REGISTRY, Schedule, "constant", listed=False)]
