"""The step of schedulefree's RAdamScheduleFree in blocks, and compiled; the formulas are the library's.

Source: Defazio et al. 2024, arXiv:2405.15682; Liu et al. 2019, arXiv:1908.03265.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.kernels import compiled
from optimizer.kernels.blocks import Lists, bundles

Group = dict[str, Any]

EVALUATING = "step() in eval mode: the gradients are those of the averaged weights. Call train() before training."


@Optimizer.profile_hook_step
def schedule_free_radam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """RAdamScheduleFree's step, to the bit. It leaves the gradients as they are, which the library's does not."""
    return _stepped(optimizer, closure, compile_large=False)


@Optimizer.profile_hook_step
def compiled_schedule_free_radam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """RAdamScheduleFree's step, compiled for large parameters: equal but for rounding."""
    return _stepped(optimizer, closure, compile_large=True)


@torch.no_grad()
def _stepped(optimizer: Any, closure: Callable[[], Any] | None, compile_large: bool) -> Any:
    if not optimizer.param_groups[0]["train_mode"]:
        raise RuntimeError(EVALUATING)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    for group in optimizer.param_groups:
        _step_group(optimizer.state, group, [p for p in group["params"] if p.grad is not None], compile_large)
    return loss


def _step_group(states: Any, group: Group, parameters: list[Tensor], compile_large: bool) -> None:
    rectification, is_adaptive = _rectification(group)
    lr = float(group["lr"]) * rectification
    own_lr, share = _move_average(group, lr)
    for p in parameters:
        if "z" not in states[p]:
            states[p]["z"] = torch.clone(p, memory_format=torch.preserve_format)
            states[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    rest = []
    beta2 = group["betas"][1]
    numbers = [beta2, 1 - beta2 ** (group["k"] + 1), group["eps"], group["weight_decay"], share, own_lr, lr]
    for p in parameters:
        tensors: Any = (p, p.grad, states[p]["exp_avg_sq"], states[p]["z"])
        if compile_large and compiled.suits(*tensors):
            compiled.run(compiled.schedule_free_radam, tensors, numbers, is_adaptive)
        else:
            rest.append(tensors)
    for _, blocks in bundles(rest):
        for block in blocks:
            _update(group, block, numbers, is_adaptive)
    group["k"] += 1


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


def _update(group: Group, block: Lists, numbers: list[float], is_adaptive: bool) -> None:
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
