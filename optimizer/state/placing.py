"""Loaded state in the placement of its parameters: whole entries of sharded parameters are cut into shards."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeGuard

from torch import Tensor
from torch.optim import Optimizer

from ..config.messages import joined, shown
from ..transforms.shards import is_sharded
from ..types import StateTable
from .checks import StateMismatchError
from .sharded_tensors import shard_like, unsupported_placement

_COUNT = "step"
"""The entry that stays a plain number, also of a parameter of one element."""


def place_state(optimizer: Optimizer, ids: Sequence[Sequence[Hashable]], state: StateTable) -> StateTable:
    """Return `state` with each entry of a parameter's shape placed as the parameter, without communication.

    Args:
        optimizer: the optimizer that will load the state. It is not changed.
        ids: for each of its groups the keys of its parameters in `state`, in order.
        state: the entries by parameter, whole (equal on all ranks) or placed already.

    Raises:
        StateMismatchError: An entry is sharded and its parameter is not, or is placed in another way; the message lists
            all of them.
    """
    placed = dict(state)
    problems: list[str] = []
    for group, keys in zip(optimizer.param_groups, ids, strict=True):
        names = group.get("param_names") or [f"parameter {key}" for key in keys]
        for name, parameter, key in zip(names, group["params"], keys, strict=True):
            entries = state.get(key)
            if isinstance(entries, Mapping):
                found = {entry: _placement_problem(entry, value, parameter) for entry, value in entries.items()}
                problems += [f"{shown(name)}: {shown(entry)} {problem}" for entry, problem in found.items() if problem]
                if is_sharded(parameter) and not any(found.values()):
                    placed[key] = {
                        entry: shard_like(value, parameter) if _is_to_be_cut(entry, value, parameter) else value
                        for entry, value in entries.items()
                    }
    if problems:
        raise StateMismatchError("the optimizer state does not fit: " + joined(problems))
    return placed


def _is_to_be_cut(entry: Hashable, value: object, parameter: Tensor) -> TypeGuard[Tensor]:
    if not isinstance(value, Tensor) or is_sharded(value) or not is_sharded(parameter):
        return False
    return entry != _COUNT and value.shape == parameter.shape


def _placement_problem(entry: Hashable, value: object, parameter: Tensor) -> str | None:
    if _is_to_be_cut(entry, value, parameter) and (problem := unsupported_placement(parameter)):
        return f"cannot be loaded into its parameter: {problem}"
    if not is_sharded(value):
        return None
    if not is_sharded(parameter):
        remedy = "Save it with save_optimizer_state and load that, or load what optimizer.state.gathered returns"
        return f"is sharded, and its parameter is not. {remedy}"
    if (value.device_mesh, value.placements) != (parameter.device_mesh, parameter.placements):
        places = [f"{each.placements} on {each.device_mesh}" for each in (value, parameter)]
        return f"is placed as {places[0]}, and its parameter as {places[1]}"
    return None
