"""Fused steps. That of Adam and AdamW does without what torch does around it: the same operations on the same state.

For small components most of a step is Python; torch sorts the tensors by device and type anew at each update.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.kernels.moments import adam_state, check_class_step
from optimizer.kernels.stepping import Group, loss_of, objection_to, step_of_class
from optimizer.memory_layout import laid_out_as


@Optimizer.profile_hook_step
@torch.no_grad()
def fused_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's fused step, for groups whose parameters are of one device and one type.

    The class takes the first update of a parameter, those under GradScaler, and those of groups that are not so plain.
    Raises RuntimeError if a group is not fused any more, and the optimizer has a `state_dtype`.
    """
    loss = loss_of(closure)
    if optimizer.state_dtype is not None:
        _make_moments(optimizer)
    states = optimizer.state
    gathered = []
    for group in optimizer.param_groups:
        rows = [(p, p.grad, states[p]) for p in group["params"] if p.grad is not None]
        is_plain = bool(group["fused"]) and not group["amsgrad"] and not isinstance(group["lr"], Tensor)
        is_plain &= all(state and not gradient.is_sparse for _, gradient, state in rows)
        if not is_plain or hasattr(optimizer, "found_inf"):
            step_of_class(optimizer)
            return loss
        gathered.append(rows)
    for group, rows in zip(optimizer.param_groups, gathered, strict=True):
        if rows:
            _step_group(group, rows)
    return loss


@Optimizer.profile_hook_step
@torch.no_grad()
def fused_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """The class's own fused step, of tensors that all lie in memory as it takes them to lie.

    Once there is a sparse gradient, for which no class has a fused step, the class takes its other one.
    """
    loss = loss_of(closure)
    for group in optimizer.param_groups:
        if any(p.grad is not None and p.grad.is_sparse for p in group["params"]):
            group["fused"] = False
    step_of_class(optimizer)
    return loss


def objection(group: Group) -> str | None:
    """Return what `fused_adam_step` has against `group`, or None."""
    if not group["fused"]:
        return "its groups are not fused"
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return objection_to(group, {"cpu": types, "cuda": types})


def _make_moments(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        if not group["fused"] or group["amsgrad"]:
            check_class_step(optimizer)
        for p in group["params"]:
            if p.grad is not None:
                adam_state(optimizer, p, p.device)


def _step_group(group: dict[str, Any], rows: list[Any]) -> None:
    for p, _, state in rows:
        if state["exp_avg"].stride() != p.stride():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = laid_out_as(p, state[name])
    steps = [state["step"] for _, _, state in rows]
    torch._foreach_add_(steps, 1)
    update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    update(
        [p for p, _, _ in rows],
        [laid_out_as(p, gradient) for p, gradient, _ in rows],
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
