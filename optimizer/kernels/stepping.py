"""How a kernel takes a step: group by group, or all as the class does.

`unsupported_group` checks parameters, `unsupported_step` their gradients and state: of all groups before the first one
moves.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, UntypedStorage

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.cautious import cautious_step
from ..transforms.grad_scaler import has_overflowed
from ..transforms.gradient_scale import scale_in_place
from ..transforms.memory_layout import (
    check_memory,
    extent_bytes,
    has_strides_of,
    is_dense,
    layout_problem,
    match_strides,
    parameter_labels,
)
from ..types import ParamGroup
from .moments import check_class_step, check_moments

StepGroup = Callable[[ScheduledOptimizer, ParamGroup, list[Tensor]], None]
"""Takes the step of an optimizer's group; given those of its parameters that have a gradient, perhaps none."""

_OPTIONS = ("amsgrad", "capturable", "differentiable", "fused", "momentum")
"""Options that a kernel may not support."""

_SCALED = "its gradients are scaled by GradScaler"


def by_group(
    step_group: StepGroup, after: Callable[[ScheduledOptimizer], None] | None = None
) -> Callable[[ScheduledOptimizer], None]:
    """Return the `step` of a kernel that goes from group to group.

    If the kernel does not support a group, which may have changed since the kernel was chosen, the next best kernel
    takes the steps from then on. Where there is none, and for a gradient, the class takes the step. The step raises the
    errors of `check_class_step` and `unsupported_step`.

    Args:
        step_group: takes the step of one group.
        after: is called after the last group.
    """

    def step(optimizer: ScheduledOptimizer) -> None:
        reason = unsupported_step(optimizer) if getattr(optimizer, "found_inf", None) is None else _SCALED
        if reason is not None:
            _hand_over(optimizer, reason)
            return
        for group in optimizer.param_groups:
            step_group(optimizer, group, [p for p in group["params"] if p.grad is not None])
        if after is not None:
            after(optimizer)

    return step


def _hand_over(optimizer: ScheduledOptimizer, reason: str) -> None:
    """Let the next best kernel take this step and those to come, or else the class take this one.

    Args:
        optimizer: its kernel cannot take the step; nothing has moved.
        reason: why.
    """
    kernel = optimizer.kernel
    if kernel is not None and (reason is _SCALED or unsupported_by(kernel, optimizer) is not None):
        while (kernel := kernel.next_best) is not None:
            if unsupported_by(kernel, optimizer) is None:
                optimizer.use_kernel(kernel)
                if not kernel.scales_gradients:
                    scale_in_place(optimizer)
                kernel.step(optimizer)
                return
    check_class_step(optimizer, reason)
    step_of_class(optimizer)


def unsupported_by(kernel: Kernel, optimizer: ScheduledOptimizer) -> str | None:
    """Return why `kernel` does not support a group of `optimizer` or its `state_dtype`, or None."""
    reasons = (kernel.unsupported_reason(optimizer, group) for group in optimizer.param_groups)
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None or optimizer.step_options.state_dtype is None:
        return reason
    if kernel.unsupported_state_dtype is None:
        return f"steps that are {kernel.shown_as}"
    return kernel.unsupported_state_dtype(optimizer)


def step_of_class(optimizer: ScheduledOptimizer) -> None:
    """Take the step of the class, made cautious with a caution, on tensors that its fused steps read correctly.

    After an overflow nothing is done: torch's fused SGD would make momentum buffers that it does not fill.
    """
    if has_overflowed(optimizer):
        return
    scale_in_place(optimizer)
    step = type(optimizer).class_step
    caution = optimizer.step_options.caution
    if caution is None:
        if not optimizer.is_laid_out:
            match_strides(optimizer)
        step(optimizer)
    else:
        cautious_step(optimizer, caution, lambda: step(optimizer))


def unsupported_step(optimizer: ScheduledOptimizer) -> str | None:
    """Return why the optimizer's kernel cannot take the coming step, or None.

    While the tensors keep their memory, only the first step is checked in full.

    Raises:
        RuntimeError: for a tensor that reaches beyond its memory.
        ValueError, TypeError: for state of another shape or type, which no step can take.
    """
    kernel = optimizer.kernel
    assert kernel is not None  # whose step this is
    signature = _signature(optimizer, kernel.state_names)
    if signature is not None and signature == optimizer.checked_signature:
        return None
    optimizer.checked_signature, optimizer.is_laid_out = None, False
    reason: str | None = None
    for group in optimizer.param_groups:
        reason = reason or kernel.unsupported_reason(optimizer, group)
        for p, name in zip(group["params"], parameter_labels(group), strict=True):
            check_memory(p, name)
            if p.grad is not None:
                check_memory(p.grad, f"the gradient of {name}")
                reason = reason or _unsupported_gradient(p, p.grad, name)
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], parameter_labels(group), strict=True):
            unsupported = check_moments(optimizer, p, name, kernel.state_names, strict=reason is None)
            reason = reason or unsupported
    optimizer.unsupported = reason
    if reason is None and signature is not None:
        optimizer.checked_signature, optimizer.is_laid_out = signature, _is_laid_out(optimizer, kernel)
    return reason


def _is_laid_out(optimizer: ScheduledOptimizer, kernel: Kernel) -> bool:
    """Return whether a fused step can read all parameters, and gradients and state have their strides."""
    return all(
        value is None or (layout_problem(value) is None and is_dense(value) and has_strides_of(p, value))
        for group in optimizer.param_groups
        for p in group["params"]
        for value in (p, p.grad, *map(optimizer.state.get(p, {}).get, kernel.state_names))
    )


def unsupported_group(
    group: ParamGroup, types: Mapping[str, Sequence[torch.dtype]], *, gaps: bool = False
) -> str | None:
    """Return why kernels do not support `group`, or None.

    Args:
        group: of an optimizer with a kernel.
        types: those that the kernel supports, by device.
        gaps: whether parameters may have gaps in memory.
    """
    for option in ("amsgrad", "capturable", "differentiable"):
        if group.get(option):
            return f"it does not support {option}"
    if isinstance(group["lr"], Tensor):
        return "it does not support an lr that is a tensor"
    parameters = group["params"]
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        return "a group has parameters of several types or devices"
    for p, name in zip(parameters, parameter_labels(group), strict=True):
        odd = layout_problem(p)
        if odd is not None:
            return f"{name} {odd}"
        if p.dtype not in types.get(p.device.type, ()):
            return f"{name} is {p.dtype} on {p.device}"
        if not (gaps or p.is_contiguous() or is_dense(p)):
            return f"{name} has gaps in memory"
        if p.numel() and p.storage_offset() * p.element_size() + extent_bytes(p) > p.untyped_storage().nbytes():
            return f"{name} reaches beyond its memory"
    ranges = sorted((p.data_ptr(), p.data_ptr() + extent_bytes(p)) for p in parameters if p.numel())
    overlap = any(later < end for (_, end), (later, _) in pairwise(ranges))
    return "two parameters share memory" if overlap else None


def _unsupported_gradient(p: Tensor, gradient: Tensor, name: str) -> str | None:
    odd = layout_problem(gradient)
    if odd is not None and not gradient.is_neg():  # a negated one is copied
        return f"the gradient of {name} {odd}"
    if gradient.shape != p.shape or gradient.dtype != p.dtype or gradient.device != p.device:
        return f"the gradient of {name} is {gradient.dtype} {list(gradient.shape)} on {gradient.device}"
    return None


def _signature(optimizer: ScheduledOptimizer, state_names: Sequence[str]) -> tuple[object, ...] | None:
    """Return a value that changes with everything that `unsupported_step` checks; None if there is no such value.

    Gradients are new at each step: the value has all of them but their address. Parameters and state stay: it has the
    address of their memory (memory that is given back or shrunk has another one), and the identity of state. Most of
    a small step would be this, so each property is one `map` over all tensors.
    """
    groups, state_of = optimizer.param_groups, optimizer.state.get
    parameters: list[Tensor] = [p for group in groups for p in group["params"]]
    grads = [p.grad for p in parameters]
    gradients = [gradient for gradient in grads if gradient is not None]
    states = [state for p in parameters if (state := state_of(p))]
    held = [value for name in state_names for state in states if (value := state.get(name)) is not None]
    both = parameters + gradients
    try:
        return (
            [(len(group["params"]), type(group["lr"]), *map(group.get, _OPTIONS)) for group in groups],
            list(map(type, parameters + grads)),
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
