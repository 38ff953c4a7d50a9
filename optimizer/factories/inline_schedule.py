"""Factories whose schedule's fields are fields of the factory itself."""

from typing import Any, ClassVar, Self

from ..config.validation import Config
from ..schedules.base import Schedule
from ..schedules.horizon import Horizon
from .base import ScheduledFactory


class InlineScheduleFactory(ScheduledFactory):
    """Base of the factories of one schedule: they have its fields beside those of the optimizer."""

    schedule_class: ClassVar[type[Schedule]]
    schedule_fields: ClassVar[type[Config]]
    """The fields that factory and schedule share; both inherit them."""

    @property
    def curve(self) -> Schedule:
        return self.schedule_class.model_construct(**self.schedule_values())  # the factory has validated them

    def schedule_values(self) -> dict[str, Any]:
        """Return the values of the schedule's fields by name."""
        return {name: getattr(self, name) for name in self.schedule_fields.model_fields}

    def resolved(self, horizon: Horizon | None = None) -> Self:
        options_resolved = super().resolved(horizon)
        curve = self.curve.resolved(horizon)
        values = {name: getattr(curve, name) for name in self.schedule_fields.model_fields}
        return options_resolved._with_resolved(**values)
