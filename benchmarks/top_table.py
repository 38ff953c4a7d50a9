"""The table at the top of docs/benchmarks.md: the defaults against each peer."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from first_update import PLAN, UPDATE
from import_time import BEYOND, TORCH
from names import (
    ALL_CLIPPED,
    BY_HAND,
    CAUTIOUS,
    CLIPPED,
    EACH_CLIPPED,
    FUSED,
    LIBRARY,
    OURS,
    SAVE,
    SCHEDULE_FREE,
    STALL,
    TIMM,
    TORCH_SAVE,
    UNCLIPPED,
    WARMUP,
)
from results import Run, at, medians, of_limit, ratio, worst

WAYS = ("together", "alone")
OF_LIMIT = 1.3
"""The goal for steps: how many times their limit they take at most."""


class Goal(NamedTuple):
    """A bound on the ratio to another time, or on the time itself if `against` is empty; None: no bound."""

    against: str
    shown: str
    bound: float | None


class Row(NamedTuple):
    """A row of the table: `name` is the contender of ours at `path` in the results."""

    shown: str
    path: str
    name: str
    unit: str
    goals: tuple[Goal, ...]

    def is_step(self, runs: Sequence[Run]) -> bool:
        """Return whether there are times side by side and in new processes."""
        return any("together" in at(run, self.path) for run in runs)


ROWS = (
    Row("AdamW", "AdamW", WARMUP, "ms", (Goal(FUSED, "torch's fused", 1.0),)),
    Row(
        "Cautious AdamW",
        "Cautious AdamW",
        CAUTIOUS,
        "ms",
        (Goal(FUSED, "torch's fused AdamW", 1.4), Goal(TIMM, "timm's", 1 / 4)),
    ),
    Row("Schedule-free RAdam", "Schedule-free RAdam", SCHEDULE_FREE, "ms", (Goal(LIBRARY, "schedulefree's", 1 / 3.5),)),
    Row("Clipped AdamW", "Clipped AdamW", CLIPPED, "ms", (Goal(UNCLIPPED, "not clipped", 1.25),)),
    Row("100 small clipped components", "hundred", EACH_CLIPPED, "ms", (Goal(ALL_CLIPPED, "one fused, clipped", 2.0),)),
    Row("A loop, one update", "loops", OURS, "ms", (Goal(BY_HAND, BY_HAND, None),)),
    Row("A save", "checkpoints/saves", SAVE, "ms", (Goal(TORCH_SAVE, TORCH_SAVE, 1.0),)),
    Row("Its stall with `save_async`", "checkpoints/saves", STALL, "ms", (Goal(TORCH_SAVE, TORCH_SAVE, 0.25),)),
    Row("`innerstep plan`", "starts", PLAN, "s", (Goal(TORCH, f"`{TORCH}`", None),)),
    Row("`innerstep train`, to the first update", "starts", UPDATE, "s", (Goal(TORCH, f"`{TORCH}`", 1.5),)),
    Row("`import optimizer` and a build, beyond torch", "imports", BEYOND, "s", (Goal("", "s", 0.2),)),
)


class Judged(NamedTuple):
    """A ratio as it is shown, and whether it meets its bound, None if it has none."""

    shown: str
    is_met: bool | None


def judged(values: Sequence[float | None], bound: float | None) -> Judged:
    """Return the values. One that is above the bound is in bold."""
    known = [value for value in values if value is not None]
    if not known:
        return Judged("not measured", None)
    shown = [f"{value:.2f}" if bound is None or value <= bound else f"**{value:.2f}**" for value in known]
    return Judged(" / ".join(shown), None if bound is None else all(value <= bound for value in known))


def against(runs: Sequence[Run], row: Row, name: str) -> list[float | None]:
    """Return the worst ratio of a row to another time: side by side and in new processes if it is a step."""
    paths = [f"{row.path}/{way}" for way in WAYS] if row.is_step(runs) else [row.path]
    if not name:
        return [worst(runs, lambda run: at(run, row.path).get(row.name))]
    return [worst(runs, lambda run, path=path: ratio(run, path, row.name, name)) for path in paths]  # type: ignore[misc]


def limits(runs: Sequence[Run], row: Row, elements: int) -> list[float | None]:
    """Return how many times its limit a step takes at worst, side by side and in a new process."""
    return [
        worst(runs, lambda run, way=way: of_limit(run, row.path, way, row.name, elements))  # type: ignore[misc]
        for way in WAYS
    ]


def other_peers(runs: Sequence[Run], row: Row) -> Iterator[str]:
    """Yield the peers without a goal, each with the worst ratio side by side."""
    taken = {goal.against for goal in row.goals}
    path = f"{row.path}/together" if row.is_step(runs) else row.path
    for name in medians(runs, path) if row.is_step(runs) or row.path == "loops" else ():
        value = against(runs, row, name)[0]
        if value is not None and name not in taken and "`" not in name and name != row.name:
            package = re.split(r"[. (]", name)[0]
            yield f"{value:.2f} {package}{' 8 bit' if '8bit' in name else ''}"


def rows(runs: Sequence[Run], elements: int) -> Iterator[tuple[list[str], list[bool]]]:
    """Yield the cells of each row, and whether its goals are met."""
    for row in ROWS:
        is_step = row.is_step(runs)
        times = medians(runs, f"{row.path}/together" if is_step else row.path)
        seconds = times.get(row.name)
        factor = 1e3 if row.unit == "ms" else 1.0
        found = [(goal, judged(against(runs, row, goal.against), goal.bound)) for goal in row.goals]
        near = judged(limits(runs, row, elements), OF_LIMIT) if is_step else Judged("", None)
        cells = [
            row.shown,
            "not measured" if seconds is None else f"{seconds * factor:.3g} {row.unit}",
            ", ".join(f"{each.shown} {goal.shown}" for goal, each in found),
            ", ".join("" if goal.bound is None else f"{goal.bound:.3g}" for goal, _ in found),
            near.shown,
            ", ".join(other_peers(runs, row)),
        ]
        yield cells, [each.is_met for _, each in (*found, (None, near)) if each.is_met is not None]


def top_table(runs: Sequence[Run], elements: int) -> tuple[str, int, int]:
    """Return the table, how many goals there are, and how many of them are met."""
    lines = ["| by default | time | the worst ratio | goal | of the limit | other peers |", "|---|---|---|---|---|---|"]
    met: list[bool] = []
    for cells, goals in rows(runs, elements):
        lines.append(f"| {' | '.join(cells)} |")
        met += goals
    return "\n".join(lines), len(met), sum(met)
