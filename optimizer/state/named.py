"""An optimizer's state by parameter name, in the two forms that files take: tensors and plain values."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import check_known, check_structure, two_dicts
from .pytree_json import from_json, paths, to_json, with_paths

EXTRA = ":further"
"""Where the paths of tensors begin that belong to no parameter."""

_NOTHING: dict[str, Any] = {"list": [{"dict": []}, {"dict": []}]}


@dataclass(frozen=True)
class NamedState:
    """tensors: "PARAMETER/ENTRY" -> state tensor. values: everything else, ready for JSON."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def named_state(optimizer: Optimizer) -> NamedState:
    """Return the state of `optimizer` keyed by parameter name. The tensors are its own, not copies.

    Raises ValueError if the optimizer was built from parameters without names, or keeps what cannot be saved.
    """
    state_dict = optimizer.state_dict()
    names_by_id(state_dict["param_groups"])  # says what to do about parameters without names
    return state_by_name(state_dict, shapes_of(optimizer), optimizer.defaults)


def state_by_name(state_dict: Mapping[str, Any], shapes: dict[str, list[int]], options: Container[str]) -> NamedState:
    """Return a state dict, whose groups say `param_names`, keyed by parameter name. The tensors are its own.

    shapes: those of the parameters, by name. options: the entries of a group that are plain numbers here where they
    are scalar tensors there. Raises ValueError for groups without names, and for what cannot be saved.
    """
    names = names_by_id(state_dict["param_groups"])
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for param_id in [param_id for param_id in state_dict["state"] if param_id in names]:
        name = names[param_id]
        for entry, value in state_dict["state"][param_id].items():
            if isinstance(value, Tensor) and isinstance(entry, str):
                tensors[f"{name}/{entry}"] = value
            else:
                written = entry if isinstance(entry, str) else f"[{entry}]"  # a key in JSON is text
                plain.setdefault(name, {})[written] = to_json(value, f"{name}/{written}", tensors)
    groups = [
        {key: _plain(key, value, options) for key, value in group.items() if key != "params"}
        for group in state_dict["param_groups"]
    ]
    values = {"param_groups": groups, "shapes": shapes, "state": dict(sorted(plain.items()))}
    values |= {key: state_dict[key] for key in ("scheduler",) if key in state_dict}
    of_no_parameter = {key: value for key, value in state_dict["state"].items() if key not in names}
    extra = _without_bytes(extra_of(state_dict))
    if of_no_parameter or extra:  # what a class keeps besides
        values["further"] = to_json([of_no_parameter, extra], EXTRA, tensors)
    return NamedState(tensors, values)


def state_by_position(optimizer: Optimizer) -> NamedState:
    """Return the state of `optimizer` with the positions "0", "1" … of its parameters for names.

    The tensors are its own, not copies. Raises ValueError for what cannot be saved.
    """
    state_dict = optimizer.state_dict()
    groups = [{**group, "param_names": [str(key) for key in group["params"]]} for group in state_dict["param_groups"]]
    shapes = {str(position): list(p.shape) for position, p in enumerate(parameters_of(optimizer))}
    return state_by_name({**state_dict, "param_groups": groups}, shapes, optimizer.defaults)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def state_by_id(saved: NamedState, ids: Mapping[str, Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the state of `saved` as a state dict has it, and what the class adds to the state dict besides.

    ids: what stands for each parameter there, by name.
    """
    of_no_parameter, extra = two_dicts(from_json(saved.values.get("further", _NOTHING), saved.tensors))
    state: dict[Any, Any] = {}
    nested = {path for entries in saved.values["state"].values() for plan in entries.values() for path in paths(plan)}
    for path in sorted(saved.tensors.keys() - nested):
        name, _, entry = path.rpartition("/")
        if not path.startswith(f"{EXTRA}/"):
            check_known(name, ids)
            state.setdefault(ids[name], {})[entry] = saved.tensors[path]
    for name, entries in saved.values["state"].items():
        check_known(name, ids)
        for written, plan in entries.items():
            key = int(written[1:-1]) if re.fullmatch(r"\[\d+\]", written) else written
            state.setdefault(ids[name], {})[key] = from_json(plan, saved.tensors)
    return {**state, **of_no_parameter}, extra


def renamed(state: NamedState, new_name: Callable[[str], str]) -> NamedState:
    """Return `state` with each parameter under the name that `new_name` gives it. Raises ValueError if it is none."""
    check_structure(state.values)

    shapes = state.values["shapes"]

    def path(old: str) -> str:
        owner = _owner(old, shapes)
        return old if owner is None else new_name(owner) + old[len(owner) :]

    values = dict(state.values)
    values["shapes"] = {new_name(name): shape for name, shape in values["shapes"].items()}
    values["state"] = {
        new_name(name): {entry: with_paths(plan, path) for entry, plan in entries.items()}
        for name, entries in values["state"].items()
    }
    values["param_groups"] = [
        {**group, "param_names": [new_name(name) for name in group["param_names"]]} for group in values["param_groups"]
    ]
    return NamedState({path(old): tensor for old, tensor in state.tensors.items()}, values)


def restricted(state: NamedState, names: Sequence[str], optimizer: Optimizer) -> NamedState:
    """Return `state` with the parameters `names` alone, in a form that `optimizer`, which may have more, takes."""
    values = dict(state.values)
    values["shapes"] = shapes_of(optimizer)
    wanted, shapes = {*names, None}, state.values["shapes"]
    values["state"] = {name: entries for name, entries in values["state"].items() if name in wanted}
    tensors = {path: tensor for path, tensor in state.tensors.items() if _owner(path, shapes) in wanted}
    saved = GroupsByName(values["param_groups"])
    values["param_groups"] = [
        {**saved.sharing(group["param_names"]), "param_names": group["param_names"]} for group in optimizer.param_groups
    ]
    return NamedState(tensors, values)


def _owner(path: str, names: Container[str]) -> str | None:
    """Return the parameter that the tensor at `path` belongs to, if it is one's: a name may have a / in it."""
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in names:
            return path
    return None


def extra_of(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a class adds to the state dict besides state and groups."""
    return {key: value for key, value in state_dict.items() if key not in ("state", "param_groups", "scheduler")}


def _without_bytes(value: Any) -> Any:
    # HeavyBall pickles a setting into its state, and unpickles it: what is read from disk must not run code.
    if not isinstance(value, dict):
        return value
    return {key: _without_bytes(item) for key, item in value.items() if not isinstance(item, bytes)}


def names_by_id(groups: list[dict[str, Any]]) -> dict[int, str]:
    if any("param_names" not in group for group in groups):
        raise ValueError("this optimizer does not know its parameters' names: build it from named_parameters()")
    return {
        param_id: name for group in groups for param_id, name in zip(group["params"], group["param_names"], strict=True)
    }


def shapes_of(optimizer: Optimizer) -> dict[str, list[int]]:
    """Return the shapes of the parameters of `optimizer` by name."""
    return {
        name: list(p.shape)
        for group in optimizer.param_groups
        for p, name in zip(group["params"], group["param_names"], strict=True)
    }


class GroupsByName:
    """Parameter groups, to be found by the names of their parameters."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self._groups = groups
        self._positions = {name: place for place, group in enumerate(groups) for name in group["param_names"]}

    def sharing(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the first group that has one of the parameters `names`, or nothing."""
        positions = [self._positions[name] for name in names if name in self._positions]
        return self._groups[min(positions)] if positions else {}


def _plain(key: str, value: Any, options: Container[str]) -> Any:
    """Return an option as JSON takes it. What a class made up for itself says that it was a tensor."""
    if isinstance(value, Tensor) and (key not in options or value.ndim):
        return {"scalar": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, torch.dtype):
        return to_json(value, key, {})
    return value.item() if isinstance(value, Tensor) else value
