"""Fused steps. That of Adam and AdamW omits torch's preparations around it: the same operations on the same state.

For small components most of a step is Python; torch sorts the tensors by device and type again at each update.
"""

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.memory_layout import laid_out_as
from ..types import ParamGroup, StateDict
from .moments import MOMENTS, adam_state, cast_moments, check_class_step, count, unsupported_by_fused
from .stepping import Closure, checked, loss_of, step_of_class, unsupported_group

ADAM_STATE = (*MOMENTS, "max_exp_avg_sq")

Row = tuple[Tensor, Tensor, StateDict]
"""A parameter, its gradient and its state."""


@Optimizer.profile_hook_step
@torch.no_grad()
def fused_adam_step(optimizer: ScheduledOptimizer, closure: Closure | None = None) -> object:
    """Adam's or AdamW's fused step, for groups whose parameters are of one device and one type.

    The class takes the first update of a parameter, those under GradScaler, and those of groups that are not so plain.
    Raises RuntimeError if a group is not fused any more, and the optimizer has a `state_dtype`; and as `checked` does.
    """
    loss = loss_of(closure)
    reason = checked(optimizer)
    if optimizer.step_options.state_dtype is not None:
        if reason is not None:
            check_class_step(optimizer, reason)
        _make_moments(optimizer)
    states = optimizer.state
    gathered: list[list[Row]] = []
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
def fused_class_step(optimizer: ScheduledOptimizer, closure: Closure | None = None) -> object:
    """The class's own fused step, after all tensors were given the strides that it assumes.

    Once there is a tensor that no fused step can read, as a sparse gradient, the class takes its other one.
    Raises as `checked` does.
    """
    loss = loss_of(closure)
    checked(optimizer)
    step_of_class(optimizer)
    return loss


def _unsupported_by_adam(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return _unfused(optimizer, group) or unsupported_group(group, {"cpu": types, "cuda": types})


def _unfused(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    return None if group["fused"] else "its groups are not fused"


def _make_moments(optimizer: ScheduledOptimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                adam_state(optimizer, p, p.device)


def _step_group(group: ParamGroup, rows: list[Row], is_laid_out: bool) -> None:
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


KERNELS = (
    Kernel(
        name="fused_adam",
        shown_as="fused",
        classes=(Adam, AdamW),
        implementations=("auto", "fused"),
        step=fused_adam_step,
        unsupported_reason=_unsupported_by_adam,
        state_names=ADAM_STATE,
        unsupported_state_dtype=unsupported_by_fused,
        after_load=cast_moments,
    ),
    Kernel(
        name="fused",
        shown_as="fused",
        classes=(Adam, AdamW, SGD, Adagrad),
        implementations=("auto", "fused"),
        step=fused_class_step,
        unsupported_reason=_unfused,
        state_names=("momentum_buffer", "sum", *ADAM_STATE),
    ),
)
