"""The step of schedulefree's RAdamScheduleFree in blocks; the formulas are the library's.

Source: Defazio et al. 2024, arXiv:2405.15682; Liu et al. 2019, arXiv:1908.03265.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..transforms.memory_layout import laid_out_as
from .blocks import Lists, bundles
from .stepping import Group, objection_to, stepped

EVALUATING = "step() in eval mode: the gradients are those of the averaged weights. Call train() before training."


STATE = ("exp_avg_sq", "z")
"""What has its parameter's shape in the state."""


class Numbers(NamedTuple):
    """The numbers of an update. share: z's share in the new average. own_lr: that of y itself."""

    beta2: float
    correction: float
    eps: float
    decay: float
    share: float
    own_lr: float
    lr: float


@Optimizer.profile_hook_step
def schedule_free_radam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """RAdamScheduleFree's step, to the bit. It leaves the gradients as they are, which the library's does not."""
    check_train_mode(optimizer)
    return stepped(optimizer, closure, _step_group, objection, STATE)


def objection(optimizer: Any, group: Group) -> str | None:
    """Return what the step in blocks has against `group`, or None."""
    types = (torch.float32, torch.float64)
    return objection_to(group, {"cpu": types, "cuda": types}, gaps=True)


def check_train_mode(optimizer: Any) -> None:
    """Raise RuntimeError in eval mode."""
    if not optimizer.param_groups[0]["train_mode"]:
        raise RuntimeError(EVALUATING)


def begin_update(
    optimizer: Any, group: Group, parameters: list[Tensor]
) -> tuple[list[tuple[Tensor, ...]], Numbers, bool]:
    """Count an update; return the tensors of each parameter, the numbers, and whether to divide by the variance."""
    rectification, is_adaptive = _rectification(group)
    lr, beta2 = float(group["lr"]) * rectification, group["betas"][1]
    own_lr, share = _move_average(group, lr)
    group["k"] += 1
    numbers = Numbers(beta2, 1 - beta2 ** group["k"], group["eps"], group["weight_decay"], share, own_lr, lr)
    rows: list[Any] = []
    for p in parameters:
        state = optimizer.state[p]
        if "z" not in state:
            state["z"] = torch.clone(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state |= {name: laid_out_as(p, state[name]) for name in ("exp_avg_sq", "z")}
        rows.append((p, p.grad, state["exp_avg_sq"], state["z"]))
    return rows, numbers, is_adaptive


def _step_group(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    rows, numbers, is_adaptive = begin_update(optimizer, group, parameters)
    for _, blocks in bundles(rows):
        for block in blocks:
            _update(block, numbers, is_adaptive)


def _rectification(group: Group) -> tuple[float, bool]:
    """Return RAdam's factor on the lr at this update, and whether the variance is known well enough to divide by."""
    step, beta2 = group["k"] + 1, group["betas"][1]
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 4.0:
        return float(not group["silent_sgd_phase"]), False
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return float(ratio**0.5), True


def _move_average(group: Group, lr: float) -> tuple[float, float]:
    """Count this update into the average's weights; return the lr of y itself, and z's share in the new average."""
    group["scheduled_lr"] = lr
    group["lr_max"] = max(lr, group["lr_max"])
    weight = ((group["k"] + 1) ** group["r"]) * (group["lr_max"] ** group["weight_lr_power"])
    group["weight_sum"] += weight
    share = weight / group["weight_sum"] if group["weight_sum"] else 0
    return lr * (group["betas"][0] * (1 - share) - 1), share


def _update(block: Lists, numbers: Numbers, is_adaptive: bool) -> None:
    y, gradient, square, z = block
    beta2, correction, eps, decay, share, own_lr, lr = numbers
    torch._foreach_mul_(square, beta2)
    torch._foreach_addcmul_(square, gradient, gradient, value=1 - beta2)
    direction: Any = gradient
    if is_adaptive:
        denominator = torch._foreach_div(square, correction)
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, eps)
        direction = torch._foreach_div(gradient, denominator)
    if decay != 0:
        direction = torch._foreach_add(direction, y, alpha=decay)
    torch._foreach_lerp_(y, z, weight=share)
    torch._foreach_add_(y, direction, alpha=own_lr)
    torch._foreach_sub_(z, direction, alpha=lr)
