"""Values that all processes of a run must have in common, and the names of those whose values differ."""

import json
from collections.abc import Callable, Mapping, Sequence

import xxhash

from optimizer.config import counted, listed, shown, shown_value

from .world import World

SHOWN = 10
"""Differences that are listed in full."""
_ABSENT = "nothing"


def differences(
    world: World, values: Mapping[str, object], is_alike: Callable[[object, object], bool] | None = None
) -> list[str]:
    """Return a line for each value that differs between the processes: the same lines in all of them.

    A line names the processes whose value is not the most frequent one; of two processes both values are named.

    Args:
        world: The place of this process.
        values: Values by path, which JSON can hold.
        is_alike: Whether two values count as the same; left out: if their JSON is the same.
    """
    if world.is_alone:
        return []
    digest = xxhash.xxh3_64_intdigest(json.dumps(values, sort_keys=True).encode()) >> 1
    largest, smallest = world.largest([digest, -digest])
    if largest == -smallest:
        return []
    gathered: list[tuple[str, dict[str, object]]] = world.gather([world.name, dict(values)])
    names = [name for name, _ in gathered]
    lines = []
    for path in dict.fromkeys(path for _, of_rank in gathered for path in of_rank):
        found = [of_rank.get(path, _ABSENT) for _, of_rank in gathered]
        most, *others = _groups(found, is_alike or _has_same_json)
        lines += [
            f"{listed([names[rank] for rank in ranks], 4)}: {shown(path)}: {_shown(found[ranks[0]])},"
            f" where {_holders(names, most)} {_shown(found[most[0]])}"
            for ranks in others
        ]
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"… and {counted(more, 'more difference')}"]


def _groups(found: Sequence[object], is_alike: Callable[[object, object], bool]) -> list[list[int]]:
    """Return the ranks that have the same value, the largest group first; of equal ones that of the lowest rank."""
    groups: list[list[int]] = []
    for rank, value in enumerate(found):
        group = next((ranks for ranks in groups if is_alike(found[ranks[0]], value)), None)
        if group is None:
            groups.append([rank])
        else:
            group.append(rank)
    return sorted(groups, key=lambda ranks: (-len(ranks), ranks[0]))


def _shown(value: object) -> str:
    return _ABSENT if value == _ABSENT else shown_value(value)


def _holders(names: Sequence[str], ranks: Sequence[int]) -> str:
    return f"{names[ranks[0]]} has" if len(ranks) == 1 else f"{len(ranks)} others have"


def _has_same_json(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
