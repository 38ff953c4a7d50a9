"""An optimizer's state by parameter name, in the two forms that files take: tensors and plain values."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..types import JsonObject, ParamGroup, StateDict, StateTable
from .checks import Shapes, check_pair, check_parameter, parse_values
from .dtypes import torch_name
from .pytree_json import from_json, rename_paths, tensor_paths, to_json

EXTRA = ":further"
"""The beginning of the paths of tensors that belong to no parameter."""

_NO_EXTRA: JsonObject = {"list": [{"dict": []}, {"dict": []}]}


@dataclass(frozen=True)
class NamedState:
    """An optimizer's state by parameter name."""

    tensors: dict[str, Tensor]
    """The state tensors, under "PARAMETER/ENTRY"."""
    values: JsonObject
    """Everything else, ready for JSON: see `NamedValues` in checks.py."""


def named_state(optimizer: Optimizer) -> NamedState:
    """Return the state of `optimizer` keyed by parameter name. The tensors are its own, not copies.

    Those of sharded parameters are sharded as well (DTensors).

    Raises:
        ValueError: The optimizer was built from parameters without names, or a part of its state cannot be saved.
    """
    state_dict = optimizer.state_dict()
    names_by_id(state_dict["param_groups"])  # its message names the remedy for parameters without names
    return state_by_name(state_dict, parameter_shapes(optimizer), optimizer.defaults)


def state_by_name(state_dict: StateDict, shapes: Shapes, options: Container[str]) -> NamedState:
    """Return a state dict keyed by parameter name. The tensors are its own.

    Args:
        state_dict: its groups have `param_names`.
        shapes: those of the parameters.
        options: the entries of a group that become plain numbers if they are scalar tensors.

    Raises:
        ValueError: The groups have no names, or a part of the state cannot be saved.
    """
    names = names_by_id(state_dict["param_groups"])
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, object]] = {}
    for param_id in [param_id for param_id in state_dict["state"] if param_id in names]:
        name = names[param_id]
        for entry, value in state_dict["state"][param_id].items():
            if isinstance(value, Tensor) and isinstance(entry, str):
                tensors[f"{name}/{entry}"] = value
            else:
                written = entry if isinstance(entry, str) else f"[{entry}]"  # a key in JSON is text
                plain.setdefault(name, {})[written] = to_json(value, f"{name}/{written}", tensors)
    groups = [
        {key: _option_to_json(key, value, options) for key, value in group.items() if key != "params"}
        for group in state_dict["param_groups"]
    ]
    values: JsonObject = {"param_groups": groups, "shapes": shapes, "state": dict(sorted(plain.items()))}
    values |= {key: state_dict[key] for key in ("scheduler",) if key in state_dict}
    of_no_parameter = {key: value for key, value in state_dict["state"].items() if key not in names}
    extra = _without_bytes(class_additions(state_dict))
    if of_no_parameter or extra:
        values["further"] = to_json([of_no_parameter, extra], EXTRA, tensors)
    return NamedState(tensors, values)


def state_by_position(optimizer: Optimizer) -> NamedState:
    """Return the state of `optimizer` under the positions "0", "1" … of its parameters in place of names.

    The tensors are its own, not copies.

    Raises:
        ValueError: A part of the state cannot be saved.
    """
    state_dict = optimizer.state_dict()
    groups = [{**group, "param_names": [str(key) for key in group["params"]]} for group in state_dict["param_groups"]]
    shapes = shapes_by_name({str(position): p for position, p in enumerate(parameters_of(optimizer))})
    return state_by_name({**state_dict, "param_groups": groups}, shapes, optimizer.defaults)


def state_by_id(saved: NamedState, ids: Mapping[str, int]) -> tuple[StateTable, JsonObject]:
    """Return the state of `saved` in the form of a state dict.

    Args:
        saved: as `named_state` returned it.
        ids: the keys of the parameters in the state dict, by name.

    Returns:
        The `state`, and the additions of the class to the state dict.

    Raises:
        StateMismatchError: There is state of a parameter that is not in `ids`.
        ValueError: The values have another form.
    """
    of_no_parameter, extra = check_pair(from_json(saved.values.get("further", _NO_EXTRA), saved.tensors))
    specs: dict[str, dict[str, object]] = saved.values["state"]
    state: StateTable = {}
    nested = {path for entries in specs.values() for spec in entries.values() for path in tensor_paths(spec)}
    for path in sorted(saved.tensors.keys() - nested):
        name, _, entry = path.rpartition("/")
        if not path.startswith(f"{EXTRA}/"):
            check_parameter(name, ids)
            state.setdefault(ids[name], {})[entry] = saved.tensors[path]
    for name, entries in specs.items():
        check_parameter(name, ids)
        for written, spec in entries.items():
            key = int(written[1:-1]) if re.fullmatch(r"\[\d+\]", written) else written
            state.setdefault(ids[name], {})[key] = from_json(spec, saved.tensors)
    return {**state, **of_no_parameter}, extra


def rename_parameters(state: NamedState, new_name: Callable[[str], str]) -> NamedState:
    """Return `state` with each parameter under the name that `new_name` gives it.

    Raises:
        ValueError: The values have another form than those of a NamedState.
    """
    values = parse_values(state.values)
    shapes = values["shapes"]

    def new_path(path: str) -> str:
        name = _parameter_at(path, shapes)
        return path if name is None else new_name(name) + path[len(name) :]

    renamed = {
        "shapes": {new_name(name): shape for name, shape in shapes.items()},
        "state": {
            new_name(name): {entry: rename_paths(spec, new_path) for entry, spec in entries.items()}
            for name, entries in values["state"].items()
        },
        "param_groups": [
            {**group, "param_names": [new_name(name) for name in group["param_names"]]}
            for group in values["param_groups"]
        ],
    }
    tensors = {new_path(path): tensor for path, tensor in state.tensors.items()}
    return NamedState(tensors, {**state.values, **renamed})


def restrict_parameters(state: NamedState, names: Sequence[str], optimizer: Optimizer) -> NamedState:
    """Return the state of some parameters, in a form that an optimizer with more parameters takes.

    Args:
        state: the state of these parameters and others.
        names: of the parameters.
        optimizer: the optimizer that will load the state.
    """
    wanted, shapes = {*names, None}, state.values["shapes"]
    groups = GroupsByName(state.values["param_groups"])
    restricted = {
        "shapes": parameter_shapes(optimizer),
        "state": {name: entries for name, entries in state.values["state"].items() if name in wanted},
        "param_groups": [
            {**groups.sharing(group["param_names"]), "param_names": group["param_names"]}
            for group in optimizer.param_groups
        ],
    }
    tensors = {path: tensor for path, tensor in state.tensors.items() if _parameter_at(path, shapes) in wanted}
    return NamedState(tensors, {**state.values, **restricted})


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def class_additions(state_dict: StateDict) -> JsonObject:
    """Return the entries that a class adds to a state dict, which holds state and groups."""
    return {key: value for key, value in state_dict.items() if key not in ("state", "param_groups", "scheduler")}


def has_names(groups: Iterable[ParamGroup]) -> bool:
    """Return whether every group holds the names of its parameters."""
    return all("param_names" in group for group in groups)


def names_by_id(groups: list[ParamGroup]) -> dict[int, str]:
    """Return the names of the parameters by their keys in the groups of a state dict.

    Raises:
        ValueError: A group has no names, or not one for each of its parameters.
    """
    if not has_names(groups):
        raise ValueError("this optimizer does not know its parameters' names: build it from named_parameters()")
    for place, group in enumerate(groups):
        found, expected = len(group["param_names"]), len(group["params"])
        if found != expected:
            raise ValueError(
                f"param_groups.{place}.param_names: must be as many as the group's parameters, {expected}; got {found}."
                " Take the name of a parameter out of the group together with the parameter."
            )
    return {
        param_id: name for group in groups for param_id, name in zip(group["params"], group["param_names"], strict=True)
    }


def shapes_by_name(values: Mapping[str, object]) -> Shapes:
    """Return the shape of each tensor by name; [] for a value that is not a tensor."""
    return {name: list(value.shape) if isinstance(value, Tensor) else [] for name, value in values.items()}


def parameter_shapes(optimizer: Optimizer) -> Shapes:
    """Return the shapes of the parameters of `optimizer`, which has their names, by name."""
    named = (
        pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
    )
    return shapes_by_name(dict(named))


class GroupsByName:
    """Parameter groups, found by the names of their parameters."""

    def __init__(self, groups: list[ParamGroup]) -> None:
        self._groups = groups
        self._positions = {name: place for place, group in enumerate(groups) for name in group["param_names"]}

    def sharing(self, names: Sequence[str]) -> ParamGroup:
        """Return the first group that has one of the parameters `names`; an empty one if there is none."""
        positions = [self._positions[name] for name in names if name in self._positions]
        return self._groups[min(positions)] if positions else {}


def _parameter_at(path: str, names: Container[str]) -> str | None:
    """Return the parameter that the tensor at `path` belongs to, if there is one: a name may have a / in it."""
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in names:
            return path
    return None


def _without_bytes(value: object) -> object:
    # HeavyBall pickles a setting into its state, and unpickles it: content read from disk must not run code.
    if not isinstance(value, dict):
        return value
    return {key: _without_bytes(item) for key, item in value.items() if not isinstance(item, bytes)}


def _option_to_json(key: str, value: object, options: Container[str]) -> object:
    """Return an option as JSON takes it. A tensor that the class itself added is marked as one."""
    if isinstance(value, Tensor) and (key not in options or value.ndim):
        return {"scalar": value.tolist(), "dtype": f"torch.{torch_name(value.dtype)}"}
    if isinstance(value, torch.dtype):
        return to_json(value, key, {})
    return value.item() if isinstance(value, Tensor) else value
