"""How a kernel takes a step: group by group, or all as the class does.

`unsupported_group` checks parameters, `unsupported_step` their gradients and state: of all groups before the first one
moves.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

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
from .step_tensors import CheckedTensors, StepTensors, checked_tensors

StepGroup = Callable[[ScheduledOptimizer, ParamGroup, list[Tensor]], None]
"""Takes the step of an optimizer's group; given those of its parameters that have a gradient, perhaps none."""

_SHARED = "two parameters share memory"
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
        tensors = supported_tensors(optimizer)
        if tensors is None:
            return
        for group, begin, end in tensors.groups:
            step_group(optimizer, group, tensors.parameters[begin:end])
        if after is not None:
            after(optimizer)

    return step


def supported_tensors(optimizer: ScheduledOptimizer) -> StepTensors | None:
    """Return the tensors of the coming step; None if the optimizer's kernel cannot take it, and another step was taken.

    Raises:
        RuntimeError, ValueError, TypeError: as `check_class_step` and `unsupported_step` do.
    """
    if getattr(optimizer, "found_inf", None) is not None:
        _hand_over(optimizer, _SCALED)
        return None
    reason, tensors = checked_step(optimizer)
    if reason is not None:
        _hand_over(optimizer, reason)
        return None
    return tensors


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
    """Return why `kernel` does not support a group of `optimizer`, its `state_dtype` or its rounding, or None."""
    if optimizer.step_options.stochastic_rounding and not kernel.rounds_stochastically:
        return f"steps that are {kernel.shown_as}"
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
    return checked_step(optimizer)[0]


def checked_step(optimizer: ScheduledOptimizer) -> tuple[str | None, StepTensors]:
    """Return the result of `unsupported_step`, and the tensors of the coming step."""
    kernel = optimizer.kernel
    assert kernel is not None  # whose step this is
    tensors, checked = StepTensors(optimizer, kernel.state_names), optimizer.checked_tensors
    if isinstance(checked, CheckedTensors) and checked.are_still(optimizer, tensors):
        return None, tensors
    optimizer.checked_tensors, optimizer.is_laid_out = None, False
    reason = optimizer.unsupported = _unsupported(optimizer, kernel)
    if reason is None:
        optimizer.checked_tensors = checked_tensors(optimizer, tensors)
        optimizer.is_laid_out = optimizer.checked_tensors is not None and _is_laid_out(optimizer, kernel)
    return reason, tensors


def _unsupported(optimizer: ScheduledOptimizer, kernel: Kernel) -> str | None:
    reason: str | None = None
    for group in optimizer.param_groups:
        reason = reason or kernel.unsupported_reason(optimizer, group)
        for p, name in zip(group["params"], parameter_labels(group), strict=True):
            check_memory(p, name)
            if p.grad is not None:
                check_memory(p.grad, f"the gradient of {name}")
                reason = reason or _unsupported_gradient(p, p.grad, name)
    if reason is None and len(optimizer.param_groups) > 1:  # a compiled step takes all groups at once
        reason = _SHARED if _share_memory(p for group in optimizer.param_groups for p in group["params"]) else None
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], parameter_labels(group), strict=True):
            unsupported = check_moments(optimizer, p, name, kernel.state_names, strict=reason is None)
            reason = reason or unsupported
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
    return _SHARED if _share_memory(parameters) else None


def _share_memory(parameters: Iterable[Tensor]) -> bool:
    ranges = sorted((p.data_ptr(), p.data_ptr() + extent_bytes(p)) for p in parameters if p.numel())
    return any(later < end for (_, end), (later, _) in pairwise(ranges))


def _unsupported_gradient(p: Tensor, gradient: Tensor, name: str) -> str | None:
    odd = layout_problem(gradient)
    if odd is not None and not gradient.is_neg():  # a negated one is copied
        return f"the gradient of {name} {odd}"
    if gradient.shape != p.shape or gradient.dtype != p.dtype or gradient.device != p.device:
        return f"the gradient of {name} is {gradient.dtype} {list(gradient.shape)} on {gradient.device}"
    return None
