"""What looks wrong in a curve, told before a run is spent on it."""

import itertools
from collections.abc import Callable

from optimizer.drawing import spread
from optimizer.schedule import Schedule, short

Value = Callable[[int], float]

JUMP = 0.1
"""Share of the highest lr that one update may change it by."""


def suspicions(schedule: Schedule, lr_at: Value, total_steps: int) -> list[str]:
    """Return what is suspicious about a run of `total_steps` updates on a curve, one line each.

    schedule: resolved. lr_at: the lr of an update.
    """
    grid = spread(total_steps, 10_000)
    values = [lr_at(update) for update in grid]
    peak = max(values)
    found = [
        _first(values[0], peak),
        _peak(lr_at, peak, total_steps),
        _length(schedule, lr_at, total_steps),
    ]
    if not schedule.jumps:
        found.append(_tail(schedule, grid, values, peak))
    if not schedule.jumps and schedule.pace() == 1:
        found.append(_jump(grid, values, lr_at, peak))
    return [line for line in found if line]


def _first(first: float, peak: float) -> str:
    return "update 0 runs at lr 0 and moves nothing: start the warm-up above 0" if first == 0.0 < peak else ""


def _peak(lr_at: Value, peak: float, total_steps: int) -> str:
    later = [total_steps + update for update in spread(9 * total_steps, 5_000)]
    highest = max(later, key=lr_at)
    if lr_at(highest) <= peak * 1.001:
        return ""
    return (
        f"the peak is never reached: the run ends at update {total_steps - 1}, where the lr is"
        f" {short(lr_at(total_steps - 1))}; later it would be {short(lr_at(highest))}"
    )


def _length(schedule: Schedule, lr_at: Value, total_steps: int) -> str:
    length = getattr(schedule, schedule.length_field) if schedule.length_field else None
    if length is None or (length - 1) * schedule.pace() < total_steps:
        return ""
    return (
        f"the schedule is longer than the run: of its {length * schedule.pace()} updates {total_steps} are run, and the"
        f" last is at lr {short(lr_at(total_steps - 1))}"
    )


def _tail(schedule: Schedule, grid: list[int], values: list[float], peak: float) -> str:
    last = values[-1]
    same = next((index for index in range(len(values), 0, -1) if values[index - 1] != last), 0)
    length = grid[-1] - grid[same] if same else 0
    if last >= 0.999 * peak or length <= max(schedule.pace(), 0.01 * grid[-1]):
        return ""
    return (
        f"the run is longer than the schedule: from update {grid[same]} on ({length / (grid[-1] + 1):.0%} of it) the lr"
        f" stays at {short(last)}"
    )


def _jump(grid: list[int], values: list[float], lr_at: Value, peak: float) -> str:
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    for index, step in enumerate(steps):
        around = [steps[near] for near in (index - 1, index + 1) if 0 <= near < len(steps)]
        if step <= JUMP * peak or any(step < 4 * other for other in around):
            continue
        at = max(range(grid[index] + 1, grid[index + 1] + 1), key=lambda update: abs(lr_at(update) - lr_at(update - 1)))
        before, after = lr_at(at - 1), lr_at(at)
        if abs(after - before) > JUMP * peak:
            return f"the lr jumps at update {at}, from {short(before)} to {short(after)}"
    return ""
