"""How a kernel takes a step: the closure first, then group by group, or all as the class does.

One rule says what a kernel takes: `objection_to` for parameters, `checked` for their gradients and state. All groups
are checked before the first one moves.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from ..transforms.cautious import cautious_step
from ..transforms.clipping import has_overflowed
from ..transforms.memory_layout import called, check_memory, extent, is_dense, lay_out, lies_as, oddity
from .moments import check_class_step, check_moments

Group = dict[str, Any]

StepGroup = Callable[[Any, Group, list[Tensor]], None]
"""Takes the step of an optimizer's group; given those of its parameters that have a gradient, perhaps none."""

Objection = Callable[[Any, Group], str | None]
"""Says why a kernel cannot take the steps of an optimizer's group, or nothing."""

_OPTIONS = ("amsgrad", "capturable", "differentiable", "fused", "momentum")
"""Options that an objection may be to."""


@torch.no_grad()
def stepped(
    optimizer: Any,
    closure: Callable[[], Any] | None,
    step_group: StepGroup,
    objection: Objection,
    moments: Sequence[str],
) -> Any:
    """Take a step; return what `closure` returns.

    moments: names of the state that has its parameter's shape. If there is an objection to a group, which may have
    changed since the kernel was chosen, or to a gradient, the class takes the step. Raises RuntimeError if it does not
    know the optimizer's `state_dtype`, and as `checked` does.
    """
    loss = loss_of(closure)
    reason = checked(optimizer, objection, moments)
    if reason is not None:
        check_class_step(optimizer, reason)
        step_of_class(optimizer)
        return loss
    for group in optimizer.param_groups:
        step_group(optimizer, group, [p for p in group["params"] if p.grad is not None])
    return loss


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """Return what `closure` returns, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def step_of_class(optimizer: Any) -> None:
    """Take the step that the class takes, cautious if it is to be, where its fused ones read everything by index.

    After an overflow nothing is done: torch's fused SGD would make momentum buffers that it does not fill.
    """
    if has_overflowed(optimizer):
        return
    step = type(optimizer)._base_step.__wrapped__
    if optimizer.caution is None:
        if not optimizer.is_laid_out:
            lay_out(optimizer)
        step(optimizer)
    else:
        cautious_step(optimizer, optimizer.caution, lambda: step(optimizer))


def checked(optimizer: Any, objection: Objection, moments: Sequence[str]) -> str | None:
    """Return why a kernel cannot take the coming step, or None.

    Raises RuntimeError for a tensor that reaches beyond its memory, ValueError or TypeError for state of another shape
    or type, which no step can take. Of two steps with the same memory only the first is looked at in full.
    """
    signature = _signature(optimizer, moments)
    if signature is not None and signature == optimizer.checked:
        return None
    optimizer.checked, optimizer.is_laid_out = None, False
    reason: str | None = None
    for group in optimizer.param_groups:
        reason = reason or objection(optimizer, group)
        for p, name in zip(group["params"], called(group), strict=True):
            check_memory(p, name)
            if p.grad is not None:
                check_memory(p.grad, f"the gradient of {name}")
                reason = reason or _objection_to_gradient(p, p.grad, name)
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], called(group), strict=True):
            found = check_moments(optimizer, p, name, moments, strict=reason is None)
            reason = reason or found
    if reason is None and signature is not None:
        optimizer.checked, optimizer.is_laid_out = signature, _is_laid_out(optimizer, moments)
    return reason


def _is_laid_out(optimizer: Any, moments: Sequence[str]) -> bool:
    """Return whether a fused step can read all parameters, and gradients and state lie in memory as they do."""
    return all(
        value is None or (oddity(value) is None and is_dense(value) and lies_as(p, value))
        for group in optimizer.param_groups
        for p in group["params"]
        for value in (p, p.grad, *map(optimizer.state.get(p, {}).get, moments))
    )


def objection_to(group: Group, types: Mapping[str, Sequence[torch.dtype]], *, gaps: bool = False) -> str | None:
    """Return in what `group` is not as plain as kernels need it, or None.

    types: those that the kernel knows, by device. gaps: whether parameters may have gaps in memory.
    """
    for option in ("amsgrad", "capturable", "differentiable"):
        if group.get(option):
            return f"it does not know {option}"
    if isinstance(group["lr"], Tensor):
        return "it does not know an lr that is a tensor"
    parameters = group["params"]
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        return "a group has parameters of several types or devices"
    for p, name in zip(parameters, called(group), strict=True):
        odd = oddity(p)
        if odd is not None:
            return f"{name} {odd}"
        if p.dtype not in types.get(p.device.type, ()):
            return f"{name} is {p.dtype} on {p.device}"
        if not (gaps or p.is_contiguous() or is_dense(p)):
            return f"{name} has gaps in memory"
        if p.numel() and p.storage_offset() * p.element_size() + extent(p) > p.untyped_storage().nbytes():
            return f"{name} reaches beyond its memory"
    ranges = sorted((p.data_ptr(), p.data_ptr() + extent(p)) for p in parameters if p.numel())
    overlap = any(later < end for (_, end), (later, _) in pairwise(ranges))
    return "two parameters share memory" if overlap else None


def _objection_to_gradient(p: Tensor, gradient: Tensor, name: str) -> str | None:
    odd = oddity(gradient)
    if odd is not None and not gradient.is_neg():  # a negated one is copied
        return f"the gradient of {name} {odd}"
    if gradient.shape != p.shape or gradient.dtype != p.dtype or gradient.device != p.device:
        return f"the gradient of {name} is {gradient.dtype} {list(gradient.shape)} on {gradient.device}"
    return None


def _signature(optimizer: Any, moments: Sequence[str]) -> tuple[Any, ...] | None:
    """Return what tells whether anything has changed that `checked` looks at; None where that is not known so fast.

    Gradients, which are new at each step, are known by all but their address; parameters and state, which stay, by
    where their memory is (memory that is given back or shrunk has another address), and state by identity as well. Most
    of a small step would be this, so each question is one `map` over all tensors.
    """
    groups, state_of = optimizer.param_groups, optimizer.state.get
    parameters: list[Tensor] = [p for group in groups for p in group["params"]]
    found = [p.grad for p in parameters]
    gradients = [gradient for gradient in found if gradient is not None]
    own = [state for p in parameters if (state := state_of(p))]
    held = [value for name in moments for state in own if (value := state.get(name)) is not None]
    both = parameters + gradients
    try:
        return (
            [(len(group["params"]), type(group["lr"]), *map(group.get, _OPTIONS)) for group in groups],
            list(map(type, parameters + found)),
            [tensor.dtype for tensor in both],
            list(map(Tensor.size, both)),
            list(map(Tensor.stride, both)),
            True in map(Tensor.is_neg, both),
            list(map(Tensor.storage_offset, gradients)),
            list(map(Tensor.data_ptr, gradients)).count(0),
            list(map(id, held)),
            list(map(Tensor.data_ptr, parameters + held)),
            list(map(UntypedStorage.nbytes, map(Tensor.untyped_storage, gradients))),
        )
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):  # not every kind of tensor has all that
        return None
