"""A saved state dict in the form in which an optimizer loads it: matched by name, checked, under its own options."""

import inspect
import warnings
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..config.messages import as_table, joined
from ..transforms.composite_optimizer import MEMBER, owner_of
from ..types import INITIAL, ParamGroup, StateDict
from .checks import StateMismatchError, compare_names
from .fit import IMPLEMENTATION, EntryForm, EntryProbe, check_fit
from .placing import place_state

_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts of a parameter's name that torch's wrappers insert."""

_SHORT = 32
"""The length of a list that is searched faster than Python calls a method."""

_NOT_OPTIONS = frozenset(("params", "param_names", "name", MEMBER))
"""Entries of every group that are not options of its class."""


@dataclass(frozen=True)
class Match:
    """The saved state of a group."""

    ids: list[Hashable]
    """Of its parameters, in the group's order."""
    sources: list[ParamGroup]
    """The saved groups that these parameters are from."""


class _IndexedList(list[Hashable]):
    """A list that is searched in constant time."""

    def __init__(self, ids: Iterable[Hashable]) -> None:
        super().__init__(ids)
        self._known = frozenset(self)

    def __contains__(self, key: object) -> bool:
        return key in self._known


def indexed_list(ids: list[Hashable]) -> list[Hashable]:
    """Return the `params` of a group to load as a list that is searched fast.

    torch's `load_state_dict` searches the parameter of each tensor in each group, which takes quadratic time in plain
    lists.
    """
    return _IndexedList(ids) if len(ids) > _SHORT else ids


def fit_state_dict(optimizer: Optimizer, state_dict: StateDict, moved: Collection[str]) -> StateDict:
    """Return `state_dict` with the groups, options and placements of `optimizer`, and the saved counters of its class.

    Parameters are matched by name where both sides have names, else by position. One warning tables the options that
    were saved with other values.

    Args:
        optimizer: the optimizer that will load the state. It is not changed.
        state_dict: of such an optimizer. It is not changed.
        moved: options that a schedule moves: their values are not compared.

    Raises:
        StateMismatchError: Names, shapes, groups or entries do not fit; the message lists all of them.
    """
    matches = match_groups(optimizer.param_groups, state_dict["param_groups"])
    saved = [match.sources[0] if match.sources else {} for match in matches]
    check_fit(optimizer, [match.ids for match in matches], saved, state_dict["state"])
    groups: list[ParamGroup] = []
    differing: dict[str, tuple[object, object]] = {}
    for own, match in zip(optimizer.param_groups, matches, strict=True):
        options = option_names(optimizer, own)
        groups.append({**own, **_class_counters(match.sources, options, own), "params": indexed_list(match.ids)})
        for source in match.sources:
            differing |= _option_differences(own, source, options - IMPLEMENTATION, moved)
    if differing:
        table = as_table(differing)
        warnings.warn(f"the optimizer keeps its own options, which differ from the saved ones: {table}", stacklevel=4)
    state = place_state(optimizer, [match.ids for match in matches], state_dict["state"])
    return {**state_dict, "state": state, "param_groups": groups}


def match_groups(own: list[ParamGroup], saved: list[ParamGroup]) -> list[Match]:
    """Return the saved state of each own group.

    Raises:
        StateMismatchError: The groups cannot be matched.
    """
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in saved):
        raise StateMismatchError("param_groups: must be groups with a list `params`, as state_dict() returns them")
    by_position = len(own) == len(saved)
    places = {key: index for index, group in enumerate(saved) for key in group["params"]}
    matches = []
    for index, of_group in enumerate(_saved_ids(own, saved)):
        sources = sorted({places[key] for key in of_group})
        if not sources and by_position:  # a group without parameters
            sources = [index]
        matches.append(Match(of_group, [saved[source] for source in sources]))
    return matches


def _saved_ids(own: list[ParamGroup], saved: list[ParamGroup]) -> list[list[Hashable]]:
    own_names, saved_names = _parameter_names(own), _parameter_names(saved)
    of_a_tool = any(isinstance(key, str) for group in saved for key in group["params"])
    if own_names is not None and saved_names is not None and not of_a_tool:  # torch.distributed.checkpoint has ordered
        ids = dict(zip(saved_names, (key for group in saved for key in group["params"]), strict=True))
        if problems := compare_names(ids, own_names):
            raise StateMismatchError(
                f"the optimizer state does not fit: {joined(problems)}. Without `param_names` in the groups of the"
                " state it is loaded by position."
            )
        names = iter(own_names)
        return [[ids[next(names)] for _ in group["params"]] for group in own]
    counts = [[len(group["params"]) for group in groups] for groups in (saved, own)]
    if counts[0] != counts[1]:
        raise StateMismatchError(
            "the optimizer state does not fit: the saved groups have"
            f" {_sum_text(counts[0])} parameters, and these {_sum_text(counts[1])}"
        )
    return [list(group["params"]) for group in saved]


def _parameter_names(groups: list[ParamGroup]) -> list[str] | None:
    """Return the parameters' names without the parts that wrappers add; None unless there is one for each."""
    names: list[str] = []
    for group in groups:
        of_group = group.get("param_names")
        if not isinstance(of_group, list) or len(of_group) != len(group["params"]):
            return None
        names += of_group
    if all(name.startswith("module.") for name in names):  # of DataParallel
        names = [name.removeprefix("module.") for name in names]
    names = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names]
    return names if len(set(names)) == len(names) else None


def option_names(optimizer: Optimizer, group: ParamGroup) -> set[str]:
    """Return the names of the configuration in `group`: the arguments of its class. The class counts in the others."""
    mro = type(owner_of(optimizer, group)).__mro__
    inits = [cls.__dict__["__init__"] for cls in mro if "__init__" in cls.__dict__]
    return set(_NOT_OPTIONS).union(*(inspect.signature(init).parameters for init in inits))


def _class_counters(sources: list[ParamGroup], options: set[str], own: ParamGroup) -> ParamGroup:
    found = [{key: value for key, value in source.items() if key not in options} for source in sources]
    for other in found[1:]:
        for key, value in other.items():
            if not key.startswith(INITIAL) and _plain_value(value) != _plain_value(found[0].get(key)):
                raise StateMismatchError(
                    f"the parameter groups differ: {', '.join(own['param_names'])} are one group here, and were saved"
                    f" in several, with {key} {found[0].get(key)!r} and {value!r}"
                )
    return found[0] if found else {}


def _option_differences(
    own: ParamGroup, saved: ParamGroup, options: set[str], moved: Collection[str]
) -> dict[str, tuple[object, object]]:
    pairs: dict[str, tuple[object, object]] = {}
    for name in (options & own.keys() & saved.keys()) - _NOT_OPTIONS - set(moved):
        now, before = _plain_value(own[name]), _plain_value(saved[name])
        if name == "betas" and isinstance(now, list) and isinstance(before, list):
            kept = [index for index in range(len(now)) if f"beta{index + 1}" not in moved]
            now, before = [now[index] for index in kept], [before[index] for index in kept if index < len(before)]
        if now != before:
            pairs[name] = before, now
    return dict(sorted(pairs.items()))


def _plain_value(value: object) -> object:
    if isinstance(value, Tensor):
        return value.tolist()
    return [_plain_value(item) for item in value] if isinstance(value, list | tuple) else value


def _sum_text(counts: list[int]) -> str:
    return " + ".join(map(str, counts)) or "no"


@torch.no_grad()
def restore_types(optimizer: Optimizer, state_dict: StateDict) -> None:
    """Restore the saved values of the entries that torch has cast, but that the class itself makes in the saved type.

    These types are wider or narrower than that of their parameter.

    Args:
        optimizer: the optimizer that has loaded the state.
        state_dict: the loaded state, from `fit_state_dict`.
    """
    probe = EntryProbe(optimizer)
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if name == "step" or not _was_cast(value, parameter):
                    continue
                made = (probe.entries(group, parameter) or {}).get(name, EntryForm(None, False))
                if made.dtype == value.dtype:
                    optimizer.state[parameter][name] = value.to(parameter.device, copy=True)


def _was_cast(value: object, parameter: Tensor) -> TypeGuard[Tensor]:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and parameter.is_floating_point()
        and value.dtype != parameter.dtype
    )
