"""Fused steps. That of Adam and AdamW does without what torch does around it: the same operations on the same state.

For small components most of a step is Python; torch sorts the tensors by device and type anew at each update.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ..scheduling.optimizer import MOMENTS
from ..transforms.memory_layout import laid_out_as
from .moments import adam_state, check_class_step, count
from .stepping import Group, checked, loss_of, objection_to, step_of_class

STATE = (*MOMENTS, "max_exp_avg_sq")
STATES = ("momentum_buffer", "sum", *STATE)
"""What has its parameter's shape in the state of Adam, and of any class that has a fused step."""


@Optimizer.profile_hook_step
@torch.no_grad()
def fused_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's fused step, for groups whose parameters are of one device and one type.

    The class takes the first update of a parameter, those under GradScaler, and those of groups that are not so plain.
    Raises RuntimeError if a group is not fused any more, and the optimizer has a `state_dtype`; and as `checked` does.
    """
    loss = loss_of(closure)
    reason = checked(optimizer, objection, STATE)
    if optimizer.state_dtype is not None:
        if reason is not None:
            check_class_step(optimizer, reason)
        _make_moments(optimizer)
    states = optimizer.state
    gathered = []
    is_plain = reason is None and getattr(optimizer, "found_inf", None) is None
    for group in optimizer.param_groups if is_plain else ():
        rows = [(p, p.grad, states[p]) for p in group["params"] if p.grad is not None]
        is_plain &= all(state for _, _, state in rows)
        gathered.append(rows)
    if not is_plain:
        step_of_class(optimizer)
        return loss
    for group, rows in zip(optimizer.param_groups, gathered, strict=True):
        if rows:
            _step_group(group, rows, optimizer.is_laid_out)
    return loss


@Optimizer.profile_hook_step
@torch.no_grad()
def fused_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """The class's own fused step, of tensors that all lie in memory as it takes them to lie.

    Once there is a tensor that no fused step can read, as a sparse gradient, the class takes its other one.
    Raises as `checked` does.
    """
    loss = loss_of(closure)
    checked(optimizer, objection_to_class, STATES)
    step_of_class(optimizer)
    return loss


def objection(optimizer: Any, group: Group) -> str | None:
    """Return what `fused_adam_step` has against `group`, or None."""
    if not group["fused"]:
        return "its groups are not fused"
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return objection_to(group, {"cpu": types, "cuda": types})


def objection_to_class(optimizer: Any, group: Group) -> str | None:
    """Return what `fused_step` has against `group`, or None."""
    return None if group["fused"] else "its groups are not fused"


def _make_moments(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                adam_state(optimizer, p, p.device)


def _step_group(group: dict[str, Any], rows: list[Any], is_laid_out: bool) -> None:
    gradients = [gradient for _, gradient, _ in rows]
    if not is_laid_out:
        gradients = [laid_out_as(p, gradient) for p, gradient, _ in rows]
        for p, _, state in rows:
            state |= {name: laid_out_as(p, state[name]) for name in MOMENTS}
    steps = [state["step"] for _, _, state in rows]
    count(steps)
    update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    update(
        [p for p, _, _ in rows],
        gradients,
        [state["exp_avg"] for _, _, state in rows],
        [state["exp_avg_sq"] for _, _, state in rows],
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
