"""Loading an optimizer's state by parameter name or position, a copy of it, checked before anything is changed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..config.messages import counted, joined, listed, shown_value
from ..types import INITIAL, HasSchedule
from .checks import StateMismatchError, check_known, check_structure, compare_shapes
from .fit import check_fit
from .loading import fitted, matched, option_names, searchable
from .named import GroupsByName, NamedState, extra_of, names_by_id, parameters_of, shapes_of, state_by_id
from .pytree_json import dtype_named, from_json


def load_named_state(optimizer: Optimizer, saved: NamedState, own_options: bool = False) -> None:
    """Load a copy of `saved` into `optimizer`, matched by parameter name in whatever order.

    Args:
        optimizer: with a schedule inside it keeps its own options, with a warning where others were saved; a plain one
            takes the saved ones.
        saved: what `named_state` returned.
        own_options: whether other options were saved on purpose: any optimizer keeps its own, without a warning.
            What a class counts in its groups is loaded all the same.

    Raises:
        StateMismatchError: before anything is changed, if names, shapes, groups or entries do not fit.
        ValueError: if `saved` has another form than `named_state` returns.
    """
    check_structure(saved.values)
    ids = {name: param_id for param_id, name in names_by_id(optimizer.state_dict()["param_groups"]).items()}
    _check_shapes(saved.values["shapes"], shapes_of(optimizer))
    _load(optimizer, saved, ids, own_options=own_options)


def load_state_by_position(optimizer: Optimizer, saved: NamedState) -> None:
    """Load a copy of `saved` into `optimizer`, its first parameter into the first, whatever their names.

    Raises as `load_named_state` does.
    """
    check_structure(saved.values)
    names = [name for group in saved.values["param_groups"] for name in group["param_names"]]
    parameters = parameters_of(optimizer)
    if len(names) != len(parameters):
        raise StateMismatchError(
            f"the optimizer state does not fit: it is of {counted(len(names), 'parameter')}, and here"
            f" are {len(parameters)}"
        )
    _check_shapes(saved.values["shapes"], {name: list(p.shape) for name, p in zip(names, parameters, strict=True)})
    _load(optimizer, saved, {name: position for position, name in enumerate(names)}, by_position=True)


def _load(
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
    groups = [_decoded(group, own_groups.sharing(group["param_names"])) for group in saved.values["param_groups"]]
    for group in groups:
        for name in group["param_names"]:
            check_known(name, ids)
        group["params"] = [ids[name] for name in group["param_names"]]
    if own_options:
        groups = [
            _without_options(optimizer, group, own_groups.sharing(group["param_names"]) or own[0]) for group in groups
        ]
    if by_position:
        groups = [{key: value for key, value in group.items() if key != "param_names"} for group in groups]
    state_dict = {**_merged(extra_of(own_state), extra), "state": _copied(state), "param_groups": groups}
    if "scheduler" in saved.values:
        state_dict["scheduler"] = saved.values["scheduler"]
    if not isinstance(optimizer, HasSchedule):
        state_dict = fitted(optimizer, state_dict, ()) if own_options else _as_saved(optimizer, state_dict)
    optimizer.load_state_dict(state_dict)


def _check_shapes(saved: dict[str, list[int]], own: dict[str, list[int]]) -> None:
    problems = compare_shapes(saved, own)
    if problems:
        raise StateMismatchError("the optimizer state does not fit: " + joined(problems))


def _copied(value: Any) -> Any:
    """Return nested state whose tensors are copies: torch's optimizers take over the tensors that they load."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple, set) else value


def _decoded(group: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Return a saved group with its values in the types of the group `like`, an own one that has its parameters."""
    return {key: value if key == "param_names" else as_in(like.get(key), value) for key, value in group.items()}


def _without_options(optimizer: Optimizer, saved: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    options = option_names(optimizer, own) - {"params", "param_names"}
    return {key: value for key, value in saved.items() if key not in options and not key.startswith(INITIAL)}


def _as_saved(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return `state_dict` with the groups in the order of `optimizer`, which takes the saved options."""
    matches = matched(optimizer.param_groups, state_dict["param_groups"])
    groups = []
    for own, match in zip(optimizer.param_groups, matches, strict=True):
        if any(set(source["params"]) != set(match.ids) for source in match.sources):
            held = listed(own.get("param_names") or match.ids)
            raise StateMismatchError(f"the parameter groups differ: none of the saved ones holds exactly {held}")
        options = {key: value for key, value in match.sources[0].items() if key != "param_names"}
        groups.append({**options, "params": searchable(match.ids)})
    check_fit(optimizer, [match.ids for match in matches], groups, state_dict["state"])
    return {**state_dict, "param_groups": groups}


def _merged(own: Any, saved: Any) -> Any:
    if isinstance(own, bytes):  # which its class may unpickle
        return own
    if not isinstance(own, dict):
        return saved
    if not isinstance(saved, dict):
        raise StateMismatchError(
            f"what the optimizer keeps besides its state is {shown_value(saved)}, where a dict is expected"
        )
    return {**own, **{key: _merged(own.get(key), item) for key, item in saved.items()}}


def as_in(own: Any, value: Any) -> Any:
    """Return a group's value read from JSON in the type of `own`, the one that an optimizer has for it."""
    if isinstance(value, dict) and value.keys() == {"scalar", "dtype"}:
        return _tensor(value["scalar"], dtype=dtype_named(value["dtype"]))
    if isinstance(value, dict):
        return from_json(value, {})
    if isinstance(own, tuple) and isinstance(value, list):
        if len(own) != len(value):
            raise StateMismatchError(f"an option is {str(value)[:80]}, where the optimizer has {own}")
        return tuple(as_in(one, each) for one, each in zip(own, value, strict=True))
    if isinstance(own, Tensor):
        return _tensor(value, dtype=own.dtype, device=own.device)
    numbers = (bool, int, float)
    if value is not None and own is not None and isinstance(own, numbers) != isinstance(value, numbers):
        raise StateMismatchError(f"an option is {shown_value(value)}, where the optimizer has {own!r}")
    return value


def _tensor(value: Any, **options: Any) -> Tensor:
    try:
        return torch.tensor(value, **options)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{str(value)[:80]} is no tensor's value: {error}") from error
