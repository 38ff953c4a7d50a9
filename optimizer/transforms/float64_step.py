"""A class's step taken in float64, on copies of parameters, gradients and state: exact before it is rounded."""

import inspect
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..types import ParamGroup, StateDict, StateTable
from .memory_layout import check_memory
from .trial_step import class_of, trial_step

HALVES = (torch.float16, torch.bfloat16)
"""Types too short for moments: those of such parameters are float32."""


@contextmanager
def in_float64(optimizer: Optimizer) -> Iterator[dict[Tensor, Tensor]]:
    """Put float64 copies in place of the parameters and state of `optimizer`; yield the copies by parameter.

    The parameters and their gradients stay as they are. Afterwards the parameters have the state of the copies, in its
    former types; new state has the parameter's type, or float32 for half precision. After an error in the body, groups
    and state are as before.
    """
    state, groups = optimizer.state, optimizer.param_groups
    options, before = [dict(group) for group in groups], dict(state)
    held = [list(group["params"]) for group in groups]
    copies: dict[Tensor, Tensor] = {}
    try:
        for group, parameters in zip(groups, held, strict=True):
            for p in parameters:
                copies[p] = _float64_copy(p)
                if p in before:
                    del state[p]
                    own = {name: _to_float64(name, value) for name, value in before[p].items()}
                    state[copies[p]] = _with_strides_of(copies[p], own) if group.get("fused") else own
            group["params"][:] = [copies[p] for p in parameters]
        yield copies
        after = dict(state)
    except BaseException:
        for group, saved in zip(groups, options, strict=True):
            group.clear()
            group.update(saved)
        after = before
        raise
    finally:
        for group, parameters in zip(groups, held, strict=True):
            group["params"][:] = parameters
        state.clear()
        state.update(_state_of_parameters(after, before, copies) if after is not before else before)


def _float64_copy(p: Tensor) -> Tensor:
    copy = nn.Parameter(p.detach().to(torch.float64, copy=True), requires_grad=p.requires_grad)
    if p.grad is not None:
        copy.grad = torch.empty_like(copy).copy_(p.grad.detach())  # the strides of the copy, for fused steps
    return copy


def _state_of_parameters(after: StateTable, before: StateTable, copies: Mapping[Tensor, Tensor]) -> StateTable:
    """Return the state `after` a step, of the copies, as that of the parameters, in the order of `before`."""
    parameters = {copy: p for p, copy in copies.items()}
    new: StateTable = {}
    for key, values in after.items():
        p = parameters.get(key)
        if p is None:
            new[key] = values
        else:
            old = before.get(p, {})
            new[p] = {name: _to_former_type(name, value, old.get(name), p) for name, value in values.items()}
    return {key: new[key] for key in [*before, *new] if key in new}


def _is_real(value: Tensor) -> bool:
    """Return whether `value` holds real numbers in the format of its dtype, which subclasses may not."""
    is_known = type(value) in (Tensor, nn.Parameter) or hasattr(value, "full_tensor")  # a DTensor's
    return is_known and value.is_floating_point()


def _to_float64(name: Hashable, value: object) -> object:
    """Return a copy of an entry in float64. A count of steps keeps its type, as fused steps need it."""
    if isinstance(value, Tensor):
        is_real = name != "step" and _is_real(value)
        if is_real:
            check_memory(value, f"{name} of a parameter")
        return value.to(torch.float64, copy=True) if is_real else value.clone()
    return _map_items(value, _to_float64)


def _to_former_type(name: Hashable, value: object, before: object, p: Tensor) -> object:
    """Return an entry in the type that it had `before`, or that of `p`; float32 in place of half precision."""
    if isinstance(value, Tensor):
        if name == "step" or not _is_real(value) or value.dtype != torch.float64:
            return value
        dtype = before.dtype if isinstance(before, Tensor) else p.dtype
        return value.to(torch.float32 if p.dtype in HALVES and dtype in HALVES else dtype)
    return _map_items(value, lambda key, item: _to_former_type(key, item, _item_at(before, key), p))


def _map_items(value: object, change: Callable[[Hashable, object], object]) -> object:
    """Return a dict, list or tuple with `change(key, item)` in place of each item; any other value as it is."""
    if isinstance(value, dict) and type(value) is dict:
        return {key: change(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(change(index, item) for index, item in enumerate(value))
    return value


def _item_at(container: object, key: Hashable) -> object:
    if isinstance(container, Mapping):
        return container.get(key)
    if isinstance(container, list | tuple) and isinstance(key, int) and key < len(container):
        item: object = container[key]
        return item
    return None


def _with_strides_of(copy: Tensor, state: StateTable) -> StateTable:
    """Return `state` with the entries that have the shape of `copy` in its strides, for fused steps."""
    for name, value in state.items():
        if type(value) is Tensor and value.shape == copy.shape and value.stride() != copy.stride():
            state[name] = torch.empty_like(copy, dtype=value.dtype).copy_(value)
    return state


def keep_saved(optimizer: Optimizer, state_dict: StateDict) -> None:
    """Load-state-dict pre-hook: keep the state that is about to be loaded for `put_back`."""
    optimizer.__dict__["_saved_state"] = state_dict


def put_back(optimizer: Optimizer) -> None:
    """Load-state-dict post-hook: give half-precision parameters the state as it was saved, without torch's rounding to
    the parameter's type; what was saved in float64 is in float32 then, as their state is."""
    saved: StateDict = optimizer.__dict__.pop("_saved_state")
    ids = [param_id for group in saved["param_groups"] for param_id in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for param_id, p in zip(ids, parameters, strict=True):
        if p.dtype in HALVES and param_id in saved["state"]:
            own, found = optimizer.state[p], saved["state"][param_id]
            optimizer.state[p] = {name: _without_rounding(value, _item_at(found, name)) for name, value in own.items()}


def _without_rounding(value: object, saved: object) -> object:
    if isinstance(value, Tensor):
        if isinstance(saved, Tensor) and saved.is_floating_point() and saved.dtype != value.dtype:
            dtype = torch.float32 if saved.dtype == torch.float64 else saved.dtype
            return saved.detach().to(value.device, dtype, copy=True)
        return value
    return _map_items(value, lambda key, item: _without_rounding(item, _item_at(saved, key)))


def why_not_in_float64(optimizer: Optimizer) -> str | None:
    """Return why the class of `optimizer` cannot take its steps in float64, on copies, or None if it can.

    A class of a library other than PyTorch is tried on small parameters with the same number of dimensions.
    """
    parameters = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    for name, value in vars(optimizer).items():
        if name not in ("param_groups", "state") and _contains_any(value, parameters.keys()):
            return f"it keeps parameters in its attribute {name}, and would move them there"
    for group in optimizer.param_groups:
        cls = class_of(optimizer, group)
        if cls.__module__.startswith("torch.optim"):
            continue
        for p in {p.ndim: p for p in group["params"]}.values():
            failure = _step_failure(cls, group, p, torch.float64)
            if failure is not None and _step_failure(cls, group, p, p.dtype) is None:
                return f"{cls.__name__} fails to step in float64: {failure}"
    return None


def _step_failure(cls: type[Optimizer], group: ParamGroup, parameter: Tensor, dtype: torch.dtype) -> str | None:
    """Return the error of a step of `cls` on a small parameter, or None."""
    options = {name: group[name] for name in inspect.signature(cls).parameters if name in group and name != "params"}
    small = nn.Parameter(torch.ones([min(size, 2) for size in parameter.shape], dtype=dtype, device=parameter.device))
    try:
        trial_step(cls, small, options)
    except Exception as error:  # a library's class may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _contains_any(value: object, ids: Collection[int]) -> bool:
    """Return whether `value` is one of the tensors with these ids, or a container that has one inside."""
    if isinstance(value, Tensor):
        return id(value) in ids
    if isinstance(value, Mapping):
        return any(_contains_any(item, ids) for item in (*value, *value.values()))
    return isinstance(value, list | tuple | set) and any(_contains_any(item, ids) for item in value)
