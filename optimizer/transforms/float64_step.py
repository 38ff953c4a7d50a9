"""A class's step taken in float64, on copies of parameters, gradients and state: exact before it is rounded."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .memory_layout import check_memory
from .trial_step import class_of, trial_step

HALVES = (torch.float16, torch.bfloat16)
"""Types too short for moments: those of such parameters are float32."""


@contextmanager
def in_float64(optimizer: Optimizer) -> Iterator[dict[Tensor, Tensor]]:
    """Let groups and state of `optimizer` be those of float64 copies; yield the copies by parameter.

    The parameters and their gradients stay as they are. Afterwards the state that the copies have is the parameters',
    in the types that it had before, what is new in the parameter's, or float32 for half precision. If an error is
    raised within, groups and state are what they were.
    """
    state, groups = optimizer.state, optimizer.param_groups
    options, before = [dict(group) for group in groups], dict(state)
    held = [list(group["params"]) for group in groups]
    copies: dict[Tensor, Tensor] = {}
    try:
        for group, parameters in zip(groups, held, strict=True):
            for p in parameters:
                copies[p] = _copy(p)
                if p in before:
                    del state[p]
                    own = {name: _raised(name, value) for name, value in before[p].items()}
                    state[copies[p]] = _laid_out(copies[p], own) if group.get("fused") else own
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
        state.update(_of_parameters(after, before, copies) if after is not before else before)


def _copy(p: Tensor) -> Tensor:
    copy = nn.Parameter(p.detach().to(torch.float64, copy=True), requires_grad=p.requires_grad)
    if p.grad is not None:
        copy.grad = torch.empty_like(copy).copy_(p.grad.detach())  # as the copy is in memory, for fused steps
    return copy


def _of_parameters(after: dict[Any, Any], before: dict[Any, Any], copies: Mapping[Tensor, Tensor]) -> dict[Any, Any]:
    """Return the state `after` a step, of the copies, as that of the parameters, in the order of `before`."""
    parameters = {copy: p for p, copy in copies.items()}
    new: dict[Any, Any] = {}
    for key, values in after.items():
        p = parameters.get(key)
        if p is None:
            new[key] = values
        else:
            old = before.get(p, {})
            new[p] = {name: _lowered(name, value, old.get(name), p) for name, value in values.items()}
    return {key: new[key] for key in [*before, *new] if key in new}


def _is_real(value: Any) -> bool:
    """Return whether `value` is a tensor of real numbers whose type says how they are held."""
    is_known = type(value) in (Tensor, nn.Parameter) or hasattr(value, "full_tensor")  # a DTensor's
    return is_known and value.is_floating_point()


def _raised(name: Any, value: Any) -> Any:
    """Return a copy of a state in float64. A count of steps keeps its type, which fused steps go by."""
    if isinstance(value, Tensor):
        is_real = name != "step" and _is_real(value)
        if is_real:
            check_memory(value, f"{name} of a parameter")
        return value.to(torch.float64, copy=True) if is_real else value.clone()
    return _mapped(value, lambda key, item: _raised(key, item))


def _lowered(name: Any, value: Any, before: Any, p: Tensor) -> Any:
    """Return a state in the type that it had `before`, or that of `p`; float32 in place of half precision."""
    if isinstance(value, Tensor):
        if name == "step" or not _is_real(value) or value.dtype != torch.float64:
            return value
        dtype = before.dtype if isinstance(before, Tensor) else p.dtype
        return value.to(torch.float32 if p.dtype in HALVES and dtype in HALVES else dtype)
    return _mapped(value, lambda key, item: _lowered(key, item, _item(before, key), p))


def _mapped(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    if type(value) is dict:
        return {key: change(key, item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(index, item) for index, item in enumerate(value))
    return value


def _item(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except (KeyError, IndexError, TypeError):
        return None


def _laid_out(copy: Tensor, state: dict[Any, Any]) -> dict[Any, Any]:
    """Return `state` with what has the shape of `copy` as it is in memory, for fused steps."""
    for name, value in state.items():
        if type(value) is Tensor and value.shape == copy.shape and value.stride() != copy.stride():
            state[name] = torch.empty_like(copy, dtype=value.dtype).copy_(value)
    return state


def keep_saved(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Note the state that is about to be loaded: a hook for `put_back`."""
    optimizer.__dict__["_saved_state"] = state_dict


def put_back(optimizer: Optimizer) -> None:
    """Give half-precision parameters the state as it was saved: torch rounds it to the parameter's type at a load."""
    saved: Mapping[str, Any] = optimizer.__dict__.pop("_saved_state")
    ids = [param_id for group in saved["param_groups"] for param_id in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for param_id, p in zip(ids, parameters, strict=True):
        if p.dtype in HALVES and param_id in saved["state"]:
            own, found = optimizer.state[p], saved["state"][param_id]
            optimizer.state[p] = {name: _as_saved(value, _item(found, name)) for name, value in own.items()}


def _as_saved(value: Any, saved: Any) -> Any:
    if isinstance(value, Tensor):
        is_rounded = isinstance(saved, Tensor) and saved.is_floating_point() and saved.dtype != value.dtype
        return saved.detach().to(value.device, copy=True) if is_rounded else value
    return _mapped(value, lambda key, item: _as_saved(item, _item(saved, key)))


def why_not_in_float64(optimizer: Any) -> str | None:
    """Return why the class of `optimizer` cannot take its steps in float64, on copies, or None.

    A class of another library than PyTorch is tried, on small parameters of as many dimensions.
    """
    parameters = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    for name, value in vars(optimizer).items():
        if name not in ("param_groups", "state") and _holds(value, parameters.keys()):
            return f"it keeps parameters in its attribute {name}, and would move them there"
    for group in optimizer.param_groups:
        owner = class_of(optimizer, group)
        for p in (
            {p.ndim: p for p in group["params"]}.values() if not owner.__module__.startswith("torch.optim") else ()
        ):
            failure = _failure(owner, group, p, torch.float64)
            if failure is not None and _failure(owner, group, p, p.dtype) is None:
                return f"{owner.__name__} fails to step in float64: {failure}"
    return None


def _failure(cls: Any, group: Mapping[str, Any], parameter: Tensor, dtype: torch.dtype) -> str | None:
    """Return how a step of `cls` on a small parameter fails, or None."""
    options = {name: group[name] for name in inspect.signature(cls).parameters if name in group and name != "params"}
    small = nn.Parameter(torch.ones([min(size, 2) for size in parameter.shape], dtype=dtype, device=parameter.device))
    try:
        trial_step(cls, small, options)
    except Exception as error:  # a library's class may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _holds(value: Any, ids: Collection[int]) -> bool:
    """Return whether one of the tensors with these ids is in `value`, or in a container that is it."""
    if isinstance(value, Tensor):
        return id(value) in ids
    if isinstance(value, Mapping):
        return any(_holds(item, ids) for item in (*value, *value.values()))
    return isinstance(value, list | tuple | set) and any(_holds(item, ids) for item in value)
