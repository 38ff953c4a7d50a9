"""One option of an optimizer that follows a curve, and what a parameter group records of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ..config.messages import nearest
from ..config.validation import nest
from ..schedules.base import Schedule
from ..schedules.sampling import sample_steps
from ..types import INITIAL, ParamGroup


class ScheduledOption:
    """One option that follows a curve.

    base: the optimizer's own value of the option. bases: each group's. shares: what the curve's value is
    multiplied with in each group. asked: the schedule as it was given, and `schedule` as it is for `base`.
    """

    def __init__(self, option: str, schedule: Schedule, base: float) -> None:
        self.option = option
        try:
            self.curve = schedule.bind(base)
        except ValidationError as error:
            raise nest(error, ("schedule",) if option == "lr" else ("option_schedules", option)) from None
        self.schedule = self.curve.schedule
        self.base_values: list[float] = []
        self.ratios: list[float] = []
        self.base, self.asked = base, schedule

    def join(self, group: ParamGroup) -> None:
        """Take the value that `group` has as its own one."""
        base = option_value(group, self.option)
        group[INITIAL + self.option] = base
        self.base_values.append(base)
        self.ratios.append(base / self.base if self.schedule.absolute else base)

    def before_reports(self) -> Callable[[int], float]:
        """Return a function from the update to the optimizer's own value of the option, as if no metric ever came."""
        curve, factor = self.schedule.bind(), 1.0 if self.schedule.absolute else self.base
        return lambda update: curve.lr_at(update) * factor

    def ignores_base(self, updates: Sequence[int]) -> bool:
        """Return whether the curve has the same values in `updates` whatever the optimizer's own value is."""
        if not self.schedule.absolute:
            return False
        curve, other = self.schedule.bind(), self.asked.bind(2.0 * self.base)
        return all(curve.lr_at(update) == other.lr_at(update) for update in updates)

    def restore(self, state: dict[str, Any]) -> bool:
        """Restore what metrics left behind; return False if `state` is not of such a curve, which then starts anew."""
        self.curve = self.schedule.bind()
        try:
            self.curve.load_metric_state(state)
        except (KeyError, TypeError):
            self.curve = self.schedule.bind()
            return False
        return True

    def check_range(self) -> None:
        """Raise ValueError if a value of the curve, where its end is known, is none that the option can have."""
        highest = 1.0 if self.option in ("beta1", "beta2", "momentum") else math.inf
        length = getattr(self.schedule, self.schedule.length_field or "", None) or 1
        for update in sample_steps(length * self.schedule.step_length(), 200):
            value = self.curve.lr_at(update) * (1.0 if self.schedule.absolute else self.base)
            if not 0.0 <= value < highest:
                limit = "must be >= 0 and < 1" if highest == 1.0 else "must be >= 0"
                raise ValueError(
                    f"option_schedules.{self.option}: {limit}; its schedule gives {value:g} for update {update}"
                )


def other_option(option: str, schedule: Schedule, defaults: Mapping[str, Any]) -> ScheduledOption:
    """Return the track of an option besides the lr. Raises ValueError if `schedule` cannot move it."""
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
    track = ScheduledOption(option, schedule, option_value(defaults, option))
    track.check_range()
    return track


def option_value(group: Mapping[str, Any], option: str) -> float:
    """Return the value of `option` in a group or among an optimizer's options; beta1 and beta2 are in its `betas`."""
    return float(group["betas"][int(option[-1]) - 1] if option in ("beta1", "beta2") else group[option])


def set_option(group: ParamGroup, option: str, value: float) -> None:
    """Write `value` into `group`; beta1 and beta2 are the two of its `betas`."""
    if option in ("beta1", "beta2"):
        betas = list(group["betas"])
        betas[int(option[-1]) - 1] = value
        group["betas"] = tuple(betas)
    else:
        group[option] = value
