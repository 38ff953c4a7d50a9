"""The base class of schedules: validated, pure functions of the update count."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ValidationError

from ..config.errors import nest, refusal
from ..config.fields import PositiveCount
from ..config.registry import Registry
from ..config.tagged_field import TaggedField
from ..config.validation import Config
from ..types import StateDict
from .curve import Curve, MetricCurve
from .durations import RelativeDuration
from .horizon import Horizon
from .sampling import sample_steps

NOTEBOOK = Horizon(total_steps=1000, steps_per_epoch=100)
"""The run over which a notebook draws a curve."""


class Schedule(Config, ABC):
    """The values of an optimizer's lr, or of another option, by update. Update k counts from 0 and runs at lr_at(k).

    From a config to a value: `resolved(horizon)` fills in the lengths, `bind(base_lr)` the optimizer's lr, and the
    `ScheduleState` that it returns has the value of each update.

    A family implements `lr_at`, and `momentum_at` if the schedule moves the momentum. `base_lr_field` or
    `with_base_lr` take over the optimizer's lr, `new_curve` replaces `lr_at` if the values depend on more than the
    update. All other methods describe the schedule: for the plan (`summary`, `full_summary`, `config`), for the checks
    of a run (`moves_momentum`, `may_jump`, `rise_length`, `quick_reach`) and for lengths (`step_length`,
    `needs_length`, `is_resolved`, `inner_schedules`).

    Attributes:
        absolute: Whether `lr_at` returns a learning rate, from which each parameter group gets its share, or a factor
            on each group's own lr.
        length_field: The field that is the length of the run if it is omitted; None: there is no such field.
        base_lr_field: The field that is the optimizer's lr if it is omitted; None: there is no such field.
        jumps: Whether sudden changes are the purpose of the schedule.

    Examples:
        A custom schedule is a class with fields and `lr_at`. A field of the type `Duration`, `PositiveDuration` or
        `RunLength` takes updates, epochs ("10ep") or a share of the run ("5%"); `resolved` replaces them by numbers.

        >>> from optimizer import Horizon, PositiveDuration, Schedule
        >>> class Halving(Schedule):
        ...     absolute = False  # a factor on the lr
        ...     every: PositiveDuration = 10
        ...     def lr_at(self, update: int) -> float:
        ...         return 0.5 ** (update // self.every)
        >>> [Halving(every=4).lr_at(k) for k in (0, 3, 4, 8)]
        [1.0, 1.0, 0.5, 0.25]
        >>> Halving(every="5%").resolved(Horizon(total_steps=200)).every
        10
    """

    absolute: ClassVar[bool]
    length_field: ClassVar[str | None] = None
    base_lr_field: ClassVar[str | None] = None
    jumps: ClassVar[bool] = False

    interval: Literal["step", "epoch"] = "step"
    """Unit of a step of the schedule: an update, or an epoch. In epochs, the value changes only at their ends."""
    frequency: PositiveCount = 1
    """Updates or epochs in a step of the schedule."""
    steps_per_epoch: PositiveCount | None = None
    """Updates in an epoch. If omitted, the number in one pass over the data."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: object) -> None:
        super().__pydantic_init_subclass__(**options)
        for name in cls.model_fields:
            if callable(vars(Schedule).get(name)):
                raise ValueError(f"{cls.__name__}.{name}: a field must not have the name of a method of Schedule")

    @abstractmethod
    def lr_at(self, update: int) -> float:
        """Return the learning rate, or the factor, at an update.

        Args:
            update: The number of the update, from 0; with `interval: epoch` or a `frequency`, the number of the
                schedule's step.
        """

    def momentum_at(self, update: int) -> float | None:
        """Return the momentum (beta1) at an update, counted as in `lr_at`; None leaves it unchanged."""
        return None

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
        step_length = self.step_length(horizon)
        per_epoch = self.steps_per_epoch

        def steps(item: object, field: str) -> object:
            if not isinstance(item, RelativeDuration):
                return item
            return round(item.updates(horizon, field, per_epoch) / step_length)

        changes: dict[str, object] = {}
        if self.interval == "epoch":
            changes["steps_per_epoch"] = step_length // self.frequency
        for name, value in self._values():
            if name == self.length_field and value is None and (horizon or self.needs_length()):
                changes[name] = -(-total_steps_from(horizon, name) // step_length)
            elif isinstance(value, RelativeDuration):
                changes[name] = steps(value, name)
            elif isinstance(value, list) and any(isinstance(item, RelativeDuration) for item in value):
                changes[name] = [steps(item, name) for item in value]
            elif isinstance(value, list) and any(isinstance(item, Schedule) for item in value):
                if step_length != 1 and not all(item.is_resolved() for item in value):
                    self.refuse(name, "with interval or frequency outside, lengths inside must be plain numbers")
                changes[name] = [resolved_at(item, horizon, name, index) for index, item in enumerate(value)]
        return self.replaced(**changes) if changes else self

    def bind(self, base_lr: float | None = None) -> "ScheduleState":
        """Return the schedule as one optimizer follows it, by update.

        Args:
            base_lr: The optimizer's lr, for the fields that are omitted. None: they stay omitted, or are filled in
                already.

        Raises:
            ValidationError: A field does not fit `base_lr`, or `step_length` is unknown.
        """
        bound = self if base_lr is None else self.with_base_lr(base_lr)
        return ScheduleState(bound, bound.new_curve(), bound.step_length())

    def with_base_lr(self, base_lr: float) -> Self:
        """Return this schedule with the fields filled in that depend on the optimizer's lr, `base_lr`.

        Raises:
            ValidationError: A field does not fit `base_lr`.
        """
        field = self.base_lr_field
        return self if field is None or getattr(self, field) is not None else self.replaced(**{field: base_lr})

    def new_curve(self) -> Curve:
        """Return the values by step of the schedule, for one optimizer. A pure schedule is its own curve."""
        return self

    def step_length(self, horizon: Horizon | None = None) -> int:
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

    def moves_momentum(self) -> bool:
        """Return whether the schedule also moves the momentum (beta1)."""
        return False

    def needs_length(self) -> bool:
        """Return whether `length_field` must be known."""
        return True

    def inner_schedules(self) -> list["Schedule"]:
        """Return the schedules inside this one."""
        lists = [value for _, value in self._values() if isinstance(value, list)]
        return [item for value in lists for item in value if isinstance(item, Schedule)]

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
        return min(reaches) * self.step_length() if reaches else None

    def is_resolved(self) -> bool:
        """Return whether every length, here and in the schedules inside, is a plain number."""
        items = [item for _, value in self._values() for item in (value if isinstance(value, list) else [value])]
        return all(
            item.is_resolved() if isinstance(item, Schedule) else not isinstance(item, RelativeDuration)
            for item in items
        )

    def summary(self) -> str:
        """Return one short line for the plan that describes the values by step."""
        return self.key

    def full_summary(self) -> str:
        """Return `summary` with the length of the schedule's steps, if each is more than an update."""
        if self.interval == "step" and self.frequency == 1:
            return self.summary()
        unit = "update" if self.interval == "step" else "epoch"
        every = unit if self.frequency == 1 else f"{self.frequency} {unit}s"
        return f"{self.summary()}, moves every {every}"

    @property
    def key(self) -> str:
        """The key under which this schedule is registered."""
        return SCHEDULE_REGISTRY.key_of(type(self))

    def config(self) -> dict[str, Any]:
        """Return the flat dict from which this schedule can be built again: its key as `type`, and its fields."""
        defaults = {"interval": "step", "frequency": 1, "steps_per_epoch": None}
        fields = self.model_dump()
        omitted = {name for name, default in defaults.items() if fields[name] == default}
        return {"type": self.key, **{name: value for name, value in fields.items() if name not in omitted}}

    def _values(self) -> list[tuple[str, object]]:
        return [(name, getattr(self, name)) for name in type(self).model_fields]

    def _repr_svg_(self) -> str | None:
        """Return the curve as an SVG for a notebook; None without matplotlib."""
        from ..charts import Panel, Series, notebook_svg  # here: a schedule needs no charts, only a notebook does

        state = self.resolved(NOTEBOOK).bind()
        series = Series(self.key, [(update, state.lr_at(update)) for update in sample_steps(NOTEBOOK.total_steps)])
        label = "learning rate" if self.absolute else "factor on the lr"
        return notebook_svg([Panel(f"{self.key}: {state.schedule.summary()}", label, [series])])


class ScheduleState:
    """A schedule as one optimizer follows it: its values by update, given the metrics so far.

    Attributes:
        schedule: The schedule, with the fields filled in that depend on the optimizer's lr.
    """

    def __init__(self, schedule: Schedule, curve: Curve, step_length: int) -> None:
        self.schedule = schedule
        self._curve = curve
        self._metric_curve = curve if isinstance(curve, MetricCurve) else None
        self._step_length = step_length
        self._reported: dict[str, int] = {}

    def lr_at(self, update: int) -> float:
        """Return the learning rate, or the factor, that an update runs at."""
        return self._curve.lr_at(update // self._step_length)

    def momentum_at(self, update: int) -> float | None:
        """Return the momentum (beta1) that an update runs at; None leaves it unchanged."""
        return self._curve.momentum_at(update // self._step_length)

    def monitors(self) -> set[str]:
        """Return the names of the metrics that move the schedule."""
        return self._metric_curve.monitors() if self._metric_curve else set()

    def report(self, name: str, value: float, update: int) -> None:
        """Take a metric that was measured when `update` updates were done.

        If a step of the schedule is longer than an update, only the first report in each step counts.
        """
        schedule_step = update // self._step_length
        if self._metric_curve is None or (self._step_length > 1 and schedule_step <= self._reported.get(name, -1)):
            return
        self._reported[name] = schedule_step
        self._metric_curve.report(name, value, schedule_step)

    def metric_state(self) -> StateDict:
        """Return the effect of the metrics so far, as plain values; empty for a schedule that no metric moves."""
        state = self._metric_curve.metric_state() if self._metric_curve else {}
        return {"reported": dict(self._reported), "curve": state} if state and self._step_length > 1 else state

    def load_metric_state(self, state: StateDict) -> None:
        """Restore the effect of the metrics.

        Args:
            state: From `metric_state`.

        Raises:
            KeyError: The state of another kind of schedule was saved.
        """
        if self._step_length > 1:
            self._reported = dict(state["reported"]) if state else {}
            state = state["curve"] if state else {}
        if self._metric_curve is not None:
            self._metric_curve.load_metric_state(state)
        elif state:
            raise KeyError(next(iter(state)))


class CurveSchedule(Schedule):
    """Base of the schedules whose values are those of a curve that has to be made first, by `new_curve`."""

    @abstractmethod
    def new_curve(self) -> Curve: ...

    def lr_at(self, update: int) -> float:
        return self.new_curve().lr_at(update)


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
        ValidationError: At `field`, if there is no horizon.
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


AnySchedule = Annotated[Schedule, TaggedField(SCHEDULE_REGISTRY, Schedule, "constant")]
