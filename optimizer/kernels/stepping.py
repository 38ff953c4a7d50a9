"""How a kernel takes a step: the closure first, then group by group, or all as the class does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optimizer.cautious import CautiousStep
from optimizer.kernels.moments import check_class_step

Group = dict[str, Any]

StepGroup = Callable[[Any, Group, list[Tensor]], None]
"""Takes the step of an optimizer's group; given those of its parameters that have a gradient, perhaps none."""


@torch.no_grad()
def stepped(
    optimizer: Any, closure: Callable[[], Any] | None, step_group: StepGroup, is_known: Callable[[Group], bool]
) -> Any:
    """Take a step; return what `closure` returns.

    is_known: whether a group, which may have changed since the kernel was chosen, is still one for `step_group`.
    If one is not, the class takes the step; RuntimeError if it does not know the optimizer's `state_dtype`.
    """
    if not all(map(is_known, optimizer.param_groups)):
        return _step_of_class(optimizer, closure)
    loss = loss_of(closure)
    for group in optimizer.param_groups:
        step_group(optimizer, group, [p for p in group["params"] if p.grad is not None])
    return loss


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """Return what `closure` returns, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def has_plain_options(group: Group) -> bool:
    """Return whether a group has no option that would make its step another one."""
    options = ("amsgrad", "capturable", "differentiable")
    return not isinstance(group["lr"], Tensor) and not any(group.get(option) for option in options)


def _step_of_class(optimizer: Any, closure: Callable[[], Any] | None) -> Any:
    check_class_step(optimizer)
    step = None if optimizer.caution is None else CautiousStep(optimizer.caution)
    if step is not None:
        step.before(optimizer, (), {})
    loss = type(optimizer)._base_step.__wrapped__(optimizer, closure)
    if step is not None:
        step.after(optimizer, (), {})
    return loss
