"""What a schedule is: a validated, pure function of the update count."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from optimizer.horizon import Horizon
from optimizer.registry import Registry, UnknownKeyError
from optimizer.validation import Config, construct, refusal


class Curve(Protocol):
    """What the embedded scheduler reads: the values that an update runs at."""

    def lr_at(self, update: int) -> float:
        """Return the learning rate (or the factor) that update `update` runs at."""
        ...

    def momentum_at(self, update: int) -> float | None:
        """Return the momentum (beta1) that update `update` runs at; None leaves it alone."""
        ...


class Schedule(Config, ABC):
    """The values that an optimizer's options take from update to update. Update k counts from 0.

    absolute: whether `lr_at` is a learning rate, of which a parameter group with an lr of its own gets
    its share, or a factor on every group's own lr.
    """

    absolute: ClassVar[bool]

    @abstractmethod
    def lr_at(self, update: int) -> float:
        """Return the learning rate (or the factor) that update `update` runs at."""

    def momentum_at(self, update: int) -> float | None:
        """Return the momentum (beta1) that update `update` runs at; None leaves it alone."""
        return None

    def resolved(self, horizon: Horizon | None) -> Self:
        """Return this schedule with what was left out taken from `horizon`.

        Raises ValidationError where something is missing still, or does not fit the horizon.
        """
        return self

    def for_lr(self, lr: float) -> Self:
        """Return this schedule for an optimizer whose own lr is `lr`."""
        return self

    def start(self) -> Curve:
        """Return the curve for one optimizer to follow. A pure function is its own curve."""
        return self

    def summary(self) -> str:
        """Return the curve in one short line, as the plan shows it."""
        return self.key

    @property
    def key(self) -> str:
        """The key under which this schedule is registered."""
        return SCHEDULE_REGISTRY.key_of(type(self))

    def config(self) -> dict[str, Any]:
        """Return the flat dict that builds this schedule again: its key as `type`, and its fields."""
        return {"type": self.key, **self.model_dump()}


SCHEDULE_REGISTRY: Registry[Schedule] = Registry("schedule", Schedule, entry_points="innerstep.schedules")


def total_steps_from(horizon: Horizon | None, field: str = "total_steps") -> int:
    """Return the horizon's total_steps for `field`. Raises ValidationError there if there is no horizon."""
    if horizon is None:
        rule = "not given, and there is no horizon to take it from; give it, or build(params, horizon=Horizon(…))"
        raise refusal(rule, (field,))
    return horizon.total_steps


def short(value: float) -> str:
    """Return `value` in scientific notation without needless zeros: 2.5e-03."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}" if value else "0"


class _ByType:
    """Reads `{type: KEY, **fields}` as the schedule registered under KEY, and writes it back so."""

    @staticmethod
    def read(value: Any) -> Schedule:
        if isinstance(value, Schedule):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise refusal(f"must be a mapping with a `type`, as in {{type: constant}}; got {value!r}", value=value)
        fields = {name: field for name, field in value.items() if name != "type"}
        try:
            cls = SCHEDULE_REGISTRY[value["type"]]
        except UnknownKeyError as error:
            raise refusal(str(error), ("type",), value["type"]) from None
        return construct(cls, fields)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(Schedule.config)
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        choices = []
        for key, cls in SCHEDULE_REGISTRY.items():
            choice = cls.model_json_schema()
            choice["properties"] = {"type": {"const": key}, **choice.get("properties", {})}
            choice["required"] = ["type", *choice.get("required", [])]
            choices.append(choice)
        return {"anyOf": choices}


AnySchedule = Annotated[Schedule, _ByType()]
