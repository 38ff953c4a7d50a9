"""Warnings about a curve that looks wrong, before a run is spent on it."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from ..config.messages import counted, message_of
from ..schedules.base import Schedule, short
from ..schedules.sampling import sample_steps
from ..scheduling.option import ScheduledOption, option_value
from ..scheduling.scheduler import EmbeddedScheduler

Value = Callable[[int], float]
"""The value of an option by update."""

FIRST_AT_ZERO = "update 0 runs at lr 0 and moves nothing: start the warm-up above 0"
"""The warning about a warm-up from 0, as many schedules of other libraries have it: one update is lost."""
JUMP = 0.1
"""Share of the highest value that one update may change it by."""


def schedule_warnings(
    scheduler: EmbeddedScheduler, total_steps: int, usual: Mapping[str, object] | None = None
) -> list[str]:
    """Return a line for everything suspicious about the options that `scheduler` moves over a run.

    Args:
        scheduler: The scheduler of an optimizer.
        total_steps: Updates of the run.
        usual: The defaults of the optimizer's options; None if it is unknown which options were given.
    """
    lines = [] if usual is None else [_unused_option(option, total_steps, usual) for option in scheduler.options]
    for option in scheduler.options:
        lines += curve_warnings(option.schedule, option.before_reports(), total_steps, option.name)
    return [line for line in lines if line]


def _unused_option(scheduled: ScheduledOption, total_steps: int, usual: Mapping[str, object]) -> str:
    """Return a line if the optimizer's own value of an option was given and its schedule never has that value."""
    base, option, schedule = scheduled.base, scheduled.name, scheduled.schedule
    name = "betas" if option in ("beta1", "beta2") and "betas" in usual else option
    is_left_out = usual.get(name) is not None and base == option_value(usual, option)
    if is_left_out or not schedule.absolute:
        return ""
    updates = sample_steps(min(schedule.quick_reach() or total_steps, total_steps), 100)
    try:
        values = list(map(scheduled.before_reports(), updates))
        fields = [getattr(scheduled.given_schedule, name) for name in type(schedule).model_fields if "lr" in name]
        if base in (values[0], max(values), *fields) or not scheduled.ignores_base(updates):
            return ""
    except Exception:  # a user's function may raise anything; `curve_warnings` reports it
        return ""
    remedy = f"leave {option} out" if usual.get(name) is not None else f"set {option} to one of them"
    return (
        f"{option} {base:g} has no effect on the curve: {schedule.key} sets the {option} itself, up to"
        f" {short(max(values))}. Set its fields, and {remedy}. (A group with its own {option} keeps its ratio"
        " to it.)"
    )


def curve_warnings(schedule: Schedule, value_at: Value, total_steps: int, option: str = "lr") -> list[str]:
    """Return a line for everything suspicious about a run of `total_steps` updates on a curve.

    Args:
        schedule: The curve, resolved.
        value_at: The value of the option by update. A user's function inside may raise any error.
        total_steps: Updates of the run.
        option: The option that the curve moves.
    """
    reach = schedule.quick_reach() or 10 * total_steps
    grid = sample_steps(min(reach, total_steps), 10_000)
    values, failure = _values(value_at, grid)
    if failure:
        return [f"{option}: {failure}"]
    later = [total_steps + update for update in sample_steps(min(10 * total_steps, reach) - total_steps, 2_000)]
    run = _Run(schedule, option, total_steps, grid, values)
    found = [run.first(), run.peak(later, _values(value_at, later)[0]) if reach > total_steps else ""]
    if grid[-1] == total_steps - 1:
        found.append(run.length())
        found.append("" if schedule.may_jump() else run.tail())
    else:
        found.append(run.unchecked())
    if not schedule.may_jump() and schedule.step_length() == 1:
        found.append(run.jump(value_at))
    return [line for line in found if line]


def _values(value_at: Value, updates: Sequence[int]) -> tuple[list[float], str]:
    """Return the values up to the first update with an invalid one, and a line about that update."""
    values: list[float] = []
    for update in updates:
        try:
            value = value_at(update)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's function may raise anything, or exit
            return values, f"the schedule fails at update {update}: {type(error).__name__}: {message_of(error)}"
        if not value >= 0.0:  # also NaN
            return values, f"the schedule gives {value:g} for update {update}"
        values.append(value)
    return values, ""


class _Run:
    """The values of an option at some updates of a run, and the warnings about them, as text or empty."""

    def __init__(
        self, schedule: Schedule, option: str, total_steps: int, grid: Sequence[int], values: Sequence[float]
    ) -> None:
        self._schedule, self._option, self._total_steps = schedule, option, total_steps
        self._grid, self._values = grid, values
        self._peak = max(values)

    def first(self) -> str:
        if self._option != "lr" or not self._values[0] == 0.0 < self._peak:
            return ""
        return FIRST_AT_ZERO

    def peak(self, later: Sequence[int], values: Sequence[float]) -> str:
        highest = max(values, default=0.0)
        warmup = self._schedule.rise_length() * self._schedule.step_length()
        if highest <= self._peak * 1.001 and warmup >= self._total_steps:
            return (
                f"the warm-up takes the whole run: it has {counted(warmup, 'update')}, and the run {self._total_steps}"
            )
        if highest <= self._peak * 1.001:
            return ""
        return (
            f"the peak is never reached: the run ends at update {self._total_steps - 1}, where the {self._option} is"
            f" {short(self._values[-1])}; later it would be {short(highest)}"
        )

    def length(self) -> str:
        schedule = self._schedule
        length = getattr(schedule, schedule.length_field) if schedule.length_field else None
        if length is None or (length - 1) * schedule.step_length() < self._total_steps:
            return ""
        return (
            f"the schedule is longer than the run: of its {counted(length * schedule.step_length(), 'update')}"
            f" {self._total_steps} are run, and the last is at {self._option} {short(self._values[-1])}"
        )

    def tail(self) -> str:
        grid, values, last = self._grid, self._values, self._values[-1]
        same = next((index for index in range(len(values), 0, -1) if values[index - 1] != last), 0)
        length = grid[-1] - grid[same] if same else 0
        if last >= 0.999 * self._peak or length <= max(self._schedule.step_length(), 0.01 * grid[-1]):
            return ""
        return (
            f"the run is longer than the schedule: from update {grid[same]} on ({length / (grid[-1] + 1):.0%} of it)"
            f" the {self._option} stays at {short(last)}"
        )

    def jump(self, value_at: Value) -> str:
        grid, values, least = self._grid, self._values, JUMP * self._peak
        steps = [abs(after - before) for before, after in itertools.pairwise(values)]
        for index, step in enumerate(steps):
            around = [steps[near] for near in (index - 1, index + 1) if 0 <= near < len(steps)]
            if step <= least or any(step < 4 * other for other in around):
                continue
            first, last = _steepest(value_at, grid[index], grid[index + 1])
            between = [value_at(update) for update in range(first, last + 1)]
            changes = [abs(after - before) for before, after in itertools.pairwise(between)]
            at = max(range(len(changes)), key=changes.__getitem__)
            if changes[at] > least:
                return (
                    f"the {self._option} jumps at update {first + at + 1}, from {short(between[at])}"
                    f" to {short(between[at + 1])}"
                )
        return ""

    def unchecked(self) -> str:
        return (
            f"only the first {self._grid[-1] + 1} of {counted(self._total_steps, 'update')} were checked:"
            f" {self._schedule.key} is computed update by update"
        )


def _steepest(value_at: Value, first: int, last: int) -> tuple[int, int]:
    """Return the ends of at most 1,000 updates from `first` to `last` over which the value changes most."""
    while last - first > 1000:
        updates = [first + offset for offset in sample_steps(last - first + 1, 100)]
        values = [value_at(update) for update in updates]
        changes = [abs(after - before) for before, after in itertools.pairwise(values)]
        at = max(range(len(changes)), key=changes.__getitem__)
        first, last = updates[at], updates[at + 1]
    return first, last
