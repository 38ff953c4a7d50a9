"""One option of an optimizer that follows a curve, and its values in a parameter group."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ..config.errors import nest
from ..config.messages import nearest
from ..schedules.base import Schedule
from ..schedules.sampling import sample_steps
from ..types import INITIAL, JsonObject, ParamGroup


class ScheduledOption:
    """One option that follows a curve.

    Attributes:
        name: of the option: lr, weight_decay, beta1 …
        base: the optimizer's own value of the option.
        base_values: each group's own value.
        ratios: the factors by which the groups multiply the curve's value.
        given_schedule: the schedule as it was given.
        schedule: the schedule for the value `base`.
        curve: `schedule` as this option follows it, with the effect of metrics.
    """

    def __init__(self, name: str, schedule: Schedule, base: float) -> None:
        self.name = name
        try:
            self.curve = schedule.bind(base)
        except ValidationError as error:
            raise nest(error, ("schedule",) if name == "lr" else ("option_schedules", name)) from None
        self.schedule = self.curve.schedule
        self.base_values: list[float] = []
        self.ratios: list[float] = []
        self.base, self.given_schedule = base, schedule

    def join(self, group: ParamGroup) -> None:
        """Record the value that `group` has as its own value."""
        base = option_value(group, self.name)
        group[INITIAL + self.name] = base
        self.base_values.append(base)
        self.ratios.append(base / self.base if self.schedule.absolute else base)

    def before_reports(self) -> Callable[[int], float]:
        """Return the optimizer's own value of the option as a function of the update, as if no metric ever came."""
        curve, factor = self.schedule.bind(), 1.0 if self.schedule.absolute else self.base
        return lambda update: curve.lr_at(update) * factor

    def ignores_base(self, updates: Sequence[int]) -> bool:
        """Return whether the curve has the same values in `updates` for another value of the optimizer's option."""
        if not self.schedule.absolute:
            return False
        curve, other = self.schedule.bind(), self.given_schedule.bind(2.0 * self.base)
        return all(curve.lr_at(update) == other.lr_at(update) for update in updates)

    def restore(self, state: JsonObject) -> bool:
        """Restore the curve's state, which depends on metrics; restart the curve if that fails.

        Returns:
            Whether `state` is the state of such a curve.
        """
        self.curve = self.schedule.bind()
        try:
            self.curve.load_metric_state(state)
        except (KeyError, TypeError):
            self.curve = self.schedule.bind()
            return False
        return True

    def check_range(self) -> None:
        """Check the curve's values, up to its end where that is known.

        Raises:
            ValueError: The option cannot have one of them.
        """
        highest = 1.0 if self.name in ("beta1", "beta2", "momentum") else math.inf
        length = getattr(self.schedule, self.schedule.length_field or "", None) or 1
        for update in sample_steps(length * self.schedule.step_length(), 200):
            value = self.curve.lr_at(update) * (1.0 if self.schedule.absolute else self.base)
            if not 0.0 <= value < highest:
                limit = "must be >= 0 and < 1" if highest == 1.0 else "must be >= 0"
                raise ValueError(
                    f"option_schedules.{self.name}: {limit}; its schedule gives {value:g} for update {update}"
                )


def schedule_option(option: str, schedule: Schedule, defaults: Mapping[str, Any]) -> ScheduledOption:
    """Return an option other than the lr with its schedule.

    Args:
        option: its name.
        schedule: the curve that it follows.
        defaults: the optimizer's options.

    Raises:
        ValueError: The optimizer has no such option, or `schedule` cannot move it.
    """
    known = [name for name, value in defaults.items() if type(value) in (int, float) and name != "lr"]
    known += ["beta1", "beta2"] if "betas" in defaults else []
    if option not in known:
        raise ValueError(
            f"option_schedules.{option}: this optimizer has no such option{nearest(option, known)}"
            f" Known: {', '.join(known)}"
        )
    if option_value(defaults, option) == 0:
        raise ValueError(
            f"option_schedules.{option}: the optimizer's own {option} is 0, which no schedule moves. Set it to the"
            " value that the schedule starts from."
        )
    if schedule.moves_momentum():
        raise ValueError(
            f"option_schedules.{option}: {schedule.key} moves the momentum; set its cycle_momentum to false"
        )
    scheduled = ScheduledOption(option, schedule, option_value(defaults, option))
    scheduled.check_range()
    return scheduled


def option_value(group: Mapping[str, Any], option: str) -> float:
    """Return the value of `option` in a group or among an optimizer's options; `betas` holds beta1 and beta2."""
    return float(group["betas"][int(option[-1]) - 1] if option in ("beta1", "beta2") else group[option])


def set_option(group: ParamGroup, option: str, value: float) -> None:
    """Write `value` into `group`; `betas` holds beta1 and beta2."""
    if option in ("beta1", "beta2"):
        betas = list(group["betas"])
        betas[int(option[-1]) - 1] = value
        group["betas"] = tuple(betas)
    else:
        group[option] = value
