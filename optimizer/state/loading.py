"""A saved state dict as the optimizer takes it that loads it: matched by name, checked, under its own options."""

import inspect
import warnings
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..config.messages import as_table, joined
from ..transforms.composite_optimizer import MEMBER, owner_of
from ..types import INITIAL, ParamGroup
from .checks import StateMismatchError, compare_names
from .fit import IMPLEMENTATION, Made, Makers, check_fit

_OF_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts of a parameter's name that torch's wrappers put in."""

_SHORT = 32
"""The length of a list that is searched faster than Python calls a method."""


@dataclass(frozen=True)
class Match:
    """What is saved for a group. ids: its parameters, in the group's order. sources: the saved groups they are from."""

    ids: list[Hashable]
    sources: list[ParamGroup]


class _Ids(list[Hashable]):
    """A list that is searched at once, however long it is."""

    def __init__(self, ids: Iterable[Hashable]) -> None:
        super().__init__(ids)
        self._known = frozenset(self)

    def __contains__(self, key: object) -> bool:
        return key in self._known


def searchable(ids: list[Hashable]) -> list[Hashable]:
    """Return a group's parameters in a state dict to load as a list that is searched fast.

    torch's `load_state_dict` asks each group for each tensor whether it has its parameter: in a long list that would
    take a time that grows with the square of its length.
    """
    return _Ids(ids) if len(ids) > _SHORT else ids


def fitted(optimizer: Optimizer, state_dict: Mapping[str, Any], moved: Collection[str]) -> dict[str, Any]:
    """Return `state_dict` with the groups of `optimizer`, under its own options, and what its class counted when saved.

    Parameters are matched by name where both sides have names, else by position. One warning tables the options that
    were saved with other values.

    Args:
        optimizer: what is to load the state. It is not changed.
        state_dict: of such an optimizer. It is not changed.
        moved: options that a schedule moves, whose values are no configuration.

    Raises:
        StateMismatchError: if names, shapes, groups or entries do not fit; the message has all of them.
    """
    matches = matched(optimizer.param_groups, state_dict["param_groups"])
    saved = [match.sources[0] if match.sources else {} for match in matches]
    check_fit(optimizer, [match.ids for match in matches], saved, state_dict["state"])
    groups: list[ParamGroup] = []
    differing: dict[str, tuple[Any, Any]] = {}
    for own, match in zip(optimizer.param_groups, matches, strict=True):
        options = option_names(optimizer, own)
        groups.append({**own, **_counted(match.sources, options, own), "params": searchable(match.ids)})
        for source in match.sources:
            differing |= _differing(own, source, options - IMPLEMENTATION, moved)
    if differing:
        table = as_table(differing)
        warnings.warn(f"the optimizer keeps its own options, which differ from the saved ones: {table}", stacklevel=4)
    return {**state_dict, "param_groups": groups}


def matched(own: list[ParamGroup], saved: list[ParamGroup]) -> list[Match]:
    """Return for each own group what is saved for it. Raises StateMismatchError where they cannot be matched."""
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
    own_names, saved_names = _names(own), _names(saved)
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
            f" {_listed(counts[0])} parameters, and these {_listed(counts[1])}"
        )
    return [list(group["params"]) for group in saved]


def _names(groups: list[ParamGroup]) -> list[str] | None:
    """Return the parameters' names without what wrappers add; None unless there is one for each."""
    names: list[str] = []
    for group in groups:
        of_group = group.get("param_names")
        if not isinstance(of_group, list) or len(of_group) != len(group["params"]):
            return None
        names += of_group
    if all(name.startswith("module.") for name in names):  # of DataParallel
        names = [name.removeprefix("module.") for name in names]
    names = [".".join(part for part in name.split(".") if part not in _OF_WRAPPERS) for name in names]
    return names if len(set(names)) == len(names) else None


def option_names(optimizer: Optimizer, group: Mapping[str, Any]) -> set[str]:
    """Return what is configuration in `group`: the arguments of its class. The rest is what the class counts there."""
    mro = type(owner_of(optimizer, group)).__mro__
    inits = [cls.__dict__["__init__"] for cls in mro if "__init__" in cls.__dict__]
    return {"params", "param_names", "name", MEMBER}.union(*(inspect.signature(init).parameters for init in inits))


def _counted(sources: list[ParamGroup], options: set[str], own: ParamGroup) -> ParamGroup:
    found = [{key: value for key, value in source.items() if key not in options} for source in sources]
    for other in found[1:]:
        for key, value in other.items():
            if not key.startswith(INITIAL) and _plain(value) != _plain(found[0].get(key)):
                raise StateMismatchError(
                    f"the parameter groups differ: {', '.join(own['param_names'])} are one group here, and were saved"
                    f" in several, with {key} {found[0].get(key)!r} and {value!r}"
                )
    return found[0] if found else {}


def _differing(
    own: ParamGroup, saved: ParamGroup, options: set[str], moved: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in (options & own.keys() & saved.keys()) - {"params", "param_names", "name", MEMBER} - set(moved):
        now, before = _plain(own[name]), _plain(saved[name])
        if name == "betas" and isinstance(before, list):
            kept = [index for index in range(len(now)) if f"beta{index + 1}" not in moved]
            now, before = [now[index] for index in kept], [before[index] for index in kept if index < len(before)]
        if now != before:
            pairs[name] = before, now
    return dict(sorted(pairs.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _listed(counts: list[int]) -> str:
    return " + ".join(map(str, counts)) or "no"


@torch.no_grad()
def restore_wide(optimizer: Optimizer, state_dict: Mapping[str, Any], always: bool) -> None:
    """Take the saved values again where torch has cast an entry that is wider than its parameter.

    state_dict: what was loaded, from `fitted`. always: for every entry; else for those that the class makes wider.
    """
    makers = Makers(optimizer)
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if name == "step" or not _is_wider(value, parameter):
                    continue
                made = (makers.entries(group, parameter) or {}).get(name, Made(None, False))
                if always or made.dtype == value.dtype:
                    optimizer.state[parameter][name] = value.to(parameter.device, copy=True)


def _is_wider(value: Any, parameter: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and parameter.is_floating_point()
        and value.dtype.itemsize > parameter.dtype.itemsize
    )
