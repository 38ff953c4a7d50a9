"""Loading an optimizer's state by parameter name or position, a copy of it, checked before anything is changed."""

from collections.abc import Mapping
from typing import TypedDict, Unpack

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..config.messages import counted, joined, listed, shown_value
from ..types import INITIAL, HasSchedule, ParamGroup, StateDict
from .checks import Shapes, StateMismatchError, check_parameter, compare_shapes, parse_values
from .dtypes import parse_dtype
from .fit import check_fit
from .loading import fit_state_dict, indexed_list, match_groups, option_names
from .named import (
    GroupsByName,
    NamedState,
    class_additions,
    names_by_id,
    parameter_shapes,
    parameters_of,
    shapes_by_name,
    state_by_id,
)
from .placing import place_state
from .pytree_json import from_json


class _TensorOptions(TypedDict, total=False):
    dtype: torch.dtype
    device: torch.device


def load_named_state(optimizer: Optimizer, saved: NamedState, own_options: bool = False) -> None:
    """Load a copy of `saved` into `optimizer`, matched by parameter name in any order.

    Whole state is cut into the shards of sharded parameters. State that is sharded itself is loaded only where the
    parameters are sharded in the same way.

    Args:
        optimizer: with a schedule inside it keeps its own options, with a warning where others were saved; a plain one
            takes the saved ones.
        saved: as `named_state` returned it.
        own_options: whether other options were saved on purpose: any optimizer keeps its own, without a warning. The
            counters that a class keeps in its groups are loaded all the same.

    Raises:
        StateMismatchError: Names, shapes, groups, entries or placements do not fit; nothing is changed.
        ValueError: `saved` has another form than `named_state` returns.
    """
    values = parse_values(saved.values)
    ids = {name: param_id for param_id, name in names_by_id(optimizer.state_dict()["param_groups"]).items()}
    _check_shapes(values["shapes"], parameter_shapes(optimizer))
    _load_checked(optimizer, saved, ids, own_options=own_options)


def load_state_by_position(optimizer: Optimizer, saved: NamedState) -> None:
    """Load a copy of `saved` into `optimizer`, its first parameter into the first, whatever their names.

    Raises:
        StateMismatchError: Shapes, groups or entries do not fit; nothing is changed.
        ValueError: `saved` has another form than `state_by_position` returns.
    """
    values = parse_values(saved.values)
    names = [name for group in values["param_groups"] for name in group["param_names"]]
    parameters = parameters_of(optimizer)
    if len(names) != len(parameters):
        raise StateMismatchError(
            f"the optimizer state does not fit: it is of {counted(len(names), 'parameter')}, and here"
            f" are {len(parameters)}"
        )
    _check_shapes(values["shapes"], shapes_by_name(dict(zip(names, parameters, strict=True))))
    _load_checked(optimizer, saved, {name: position for position, name in enumerate(names)}, by_position=True)


def _load_checked(
    optimizer: Optimizer,
    saved: NamedState,
    ids: Mapping[str, int],
    own_options: bool = False,
    by_position: bool = False,
) -> None:
    """Load `saved`, whose shapes fit. ids: the positions of the parameters in `optimizer` by their saved names."""
    own_state = optimizer.state_dict()
    names = {param_id: name for name, param_id in ids.items()}
    own = [{**group, "param_names": [names[key] for key in group["params"]]} for group in own_state["param_groups"]]
    state, extra = state_by_id(saved, ids)
    own_groups = GroupsByName(own)
    groups = [_typed_group(group, own_groups.sharing(group["param_names"])) for group in saved.values["param_groups"]]
    for group in groups:
        for name in group["param_names"]:
            check_parameter(name, ids)
        group["params"] = [ids[name] for name in group["param_names"]]
    if own_options:
        groups = [
            _without_options(optimizer, group, own_groups.sharing(group["param_names"]) or own[0]) for group in groups
        ]
    if by_position:
        groups = [{key: value for key, value in group.items() if key != "param_names"} for group in groups]
    state_dict = {
        **_merge_additions(class_additions(own_state), extra),
        "state": _copy_tensors(place_state(optimizer, [group["params"] for group in own_state["param_groups"]], state)),
        "param_groups": groups,
    }
    if "scheduler" in saved.values:
        state_dict["scheduler"] = saved.values["scheduler"]
    if not isinstance(optimizer, HasSchedule):
        state_dict = (
            fit_state_dict(optimizer, state_dict, ()) if own_options else _with_saved_options(optimizer, state_dict)
        )
    optimizer.load_state_dict(state_dict)


def _check_shapes(saved: Shapes, own: Shapes) -> None:
    problems = compare_shapes(saved, own)
    if problems:
        raise StateMismatchError("the optimizer state does not fit: " + joined(problems))


def _copy_tensors(value: object) -> object:
    """Return nested state whose tensors are copies: torch's optimizers take over the tensors that they load."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set) and type(value) in (list, tuple, set):
        return type(value)(map(_copy_tensors, value))
    return value


def _typed_group(group: ParamGroup, like: ParamGroup) -> ParamGroup:
    """Return a saved group with its values in the types of the group `like`, an own one that has its parameters."""
    return {
        key: value if key == "param_names" else option_from_json(value, like.get(key)) for key, value in group.items()
    }


def _without_options(optimizer: Optimizer, saved: ParamGroup, own: ParamGroup) -> ParamGroup:
    options = option_names(optimizer, own) - {"params", "param_names"}
    return {key: value for key, value in saved.items() if key not in options and not key.startswith(INITIAL)}


def _with_saved_options(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Return `state_dict` with the groups in the order of `optimizer`, which takes the saved options."""
    matches = match_groups(optimizer.param_groups, state_dict["param_groups"])
    groups = []
    for own, match in zip(optimizer.param_groups, matches, strict=True):
        if any(set(source["params"]) != set(match.ids) for source in match.sources):
            held = listed(own.get("param_names") or match.ids)
            raise StateMismatchError(f"the parameter groups differ: none of the saved ones holds exactly {held}")
        options = {key: value for key, value in match.sources[0].items() if key != "param_names"}
        groups.append({**options, "params": indexed_list(match.ids)})
    check_fit(optimizer, [match.ids for match in matches], groups, state_dict["state"])
    return {**state_dict, "param_groups": groups}


def _merge_additions(own: StateDict, saved: object) -> StateDict:
    """Return the additions of a class to its state dict, with the saved values where there are some."""
    if not isinstance(saved, dict):
        raise StateMismatchError(
            f"an addition of the optimizer's class to its state is {shown_value(saved)}, where a dict is expected"
        )
    merged = dict(own)
    for key, value in saved.items():
        before = own.get(key)
        if isinstance(before, bytes):  # its class may unpickle them
            continue
        merged[key] = _merge_additions(before, value) if isinstance(before, dict) else value
    return merged


def option_from_json(value: object, like: object) -> object:
    """Return an option that was read from JSON in the type that an optimizer needs.

    Args:
        value: the option as `state_by_name` wrote it.
        like: the optimizer's own value of the option; None: it has none.

    Raises:
        StateMismatchError: `value` is of another kind than `like`.
        ValueError: `value` does not describe an option.
    """
    if isinstance(value, dict) and value.keys() == {"scalar", "dtype"}:
        return _to_tensor(value["scalar"], dtype=parse_dtype(value["dtype"]))
    if isinstance(value, dict):
        return from_json(value, {})
    if isinstance(like, tuple) and isinstance(value, list):
        if len(like) != len(value):
            raise StateMismatchError(f"an option is {str(value)[:80]}, where the optimizer has {like}")
        return tuple(option_from_json(each, one) for each, one in zip(value, like, strict=True))
    if isinstance(like, Tensor):
        return _to_tensor(value, dtype=like.dtype, device=like.device)
    numbers = (bool, int, float)
    if value is not None and like is not None and isinstance(like, numbers) != isinstance(value, numbers):
        raise StateMismatchError(f"an option is {shown_value(value)}, where the optimizer has {like!r}")
    return value


def _to_tensor(value: object, **options: Unpack[_TensorOptions]) -> Tensor:
    try:
        return torch.tensor(value, **options)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{str(value)[:80]} is not a valid value of a tensor: {error}") from error
