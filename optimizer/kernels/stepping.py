"""How a kernel takes a step: the closure first, then group by group, or all as the class does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.cautious import CautiousStep
from optimizer.kernels.moments import check_class_step
from optimizer.memory_layout import is_dense, lay_out

Group = dict[str, Any]

StepGroup = Callable[[Any, Group, list[Tensor]], None]
"""Takes the step of an optimizer's group; given those of its parameters that have a gradient, perhaps none."""

Objection = Callable[[Group], str | None]
"""Says why a kernel cannot take the steps of a group, or nothing."""


@torch.no_grad()
def stepped(optimizer: Any, closure: Callable[[], Any] | None, step_group: StepGroup, objection: Objection) -> Any:
    """Take a step; return what `closure` returns.

    If there is an objection to a group, which may have changed since the kernel was chosen, or a sparse gradient, the
    class takes the step; RuntimeError if it does not know the optimizer's `state_dtype`.
    """
    loss = loss_of(closure)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    is_sparse = any(p.grad is not None and p.grad.is_sparse for p in parameters)
    if is_sparse or any(objection(group) is not None for group in optimizer.param_groups):
        check_class_step(optimizer)
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
    """Take the step that the class takes, cautious if it is to be, where its fused ones read everything by index."""
    lay_out(optimizer)
    step = None if optimizer.caution is None else CautiousStep(optimizer.caution)
    if step is not None:
        step.before(optimizer, (), {})
    type(optimizer)._base_step.__wrapped__(optimizer)
    if step is not None:
        step.after(optimizer, (), {})


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
    for p in parameters:
        if type(p) not in (Tensor, nn.Parameter) or p.layout != torch.strided:
            return f"a parameter is a {type(p).__name__} of layout {p.layout}"
        if p.dtype not in types.get(p.device.type, ()):
            return f"a parameter is {p.dtype} on {p.device}"
        if not (gaps or p.is_contiguous() or is_dense(p)):
            return "a parameter has gaps in memory"
    addresses = [p.data_ptr() for p in parameters if p.numel()]
    return None if len(set(addresses)) == len(addresses) else "two parameters are one in memory"
