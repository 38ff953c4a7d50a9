"""The type of `freeze`: true, false, names of submodules and parameters, or the time until which all is frozen."""

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from optimizer import Horizon, PositiveDuration
from optimizer.config import Config, shown
from optimizer.schedules import updates_of

from .marks import FixedInRun


class FreezeUntil(Config):
    """The beginning of a run, in which a component stays as it is."""

    until: FixedInRun[PositiveDuration]
    """The first update that trains the component: a number of updates, `10%` of the run, or `2ep`."""

    def first_update(self, horizon: Horizon) -> int:
        """Return the number of the first update that trains the component."""
        return updates_of(self.until, horizon, "until")


def _refuse_text(value: object) -> object:
    if isinstance(value, str):
        rule = f"must be true, false, a list of names, or {{until: 10%}}: write [{shown(value)}]"
        raise PydanticCustomError("rule", "{message}", {"message": rule})
    return value


Freeze = Annotated[bool | list[str] | FreezeUntil, BeforeValidator(_refuse_text)]
"""Whether all of a component is frozen; or the names of submodules and parameters that are, with `*`; or until when."""
