"""The step of schedulefree's RAdamScheduleFree, in blocks and compiled.

The t-th step, t from 1, for training weights y with the gradient g; the averaged weights are x = (y - (1 - beta1) * z)
/ beta1. In the library's names:

    rho   = rho_inf - 2 * t * beta2^t / (1 - beta2^t)             rho_inf = 2 / (1 - beta2) - 1
    rect  = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            where rho > 4; before: 0 with silent_sgd_phase, else 1
    gamma = lr * rect
    c     = w / sum of all w until now                            w = t^r * (highest gamma until now)^weight_lr_power
    v     = beta2 * v + (1 - beta2) * g^2                         exp_avg_sq
    d     = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * y    without the division where rho <= 4
    y     = (1 - c) * y + c * z + gamma * (beta1 * (1 - c) - 1) * d
    z     = z - gamma * d

Source: Defazio et al. 2024, arXiv:2405.15682, Algorithm 1; Liu et al. 2019, arXiv:1908.03265, Algorithm 2.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch import Tensor

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.memory_layout import with_strides_of
from ..types import ParamGroup
from . import compiled, prepared
from .blocks import Lists, Tensors, bundles
from .limits import repays
from .stepping import by_group, unsupported_group

EVALUATING = "step() in eval mode: the gradients are those of the averaged weights. Call train() before training."

STATE = ("exp_avg_sq", "z")
"""The state entries that have their parameter's shape."""

Row = tuple[Tensor, ...]
"""y, its gradient, the square, z."""


class Numbers(NamedTuple):
    """The numbers of an update: 1 - beta2^t as correction, c as share, gamma as lr, y's factor on d as own_lr."""

    beta2: float
    correction: float
    eps: float
    decay: float
    share: float
    own_lr: float
    lr: float


def _unsupported_reason(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    types = (torch.float32, torch.float64)
    return unsupported_group(group, {"cpu": types, "cuda": types}, gaps=True)


def _unsupported_by_compiled(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    reason = _unsupported_reason(optimizer, group)  # the state of half precision is too short
    return reason or compiled.unsupported_reason("schedule_free_radam", optimizer, group)


def _check_train_mode(optimizer: ScheduledOptimizer) -> None:
    """Raise RuntimeError in eval mode."""
    if not optimizer.param_groups[0]["train_mode"]:
        raise RuntimeError(EVALUATING)


def _begin_update(group: ParamGroup) -> tuple[Numbers, bool]:
    """Count an update; return its numbers, and whether to divide by the variance."""
    rectification, is_adaptive = _rectification(group)
    lr, beta2 = float(group["lr"]) * rectification, group["betas"][1]
    own_lr, share = _move_average(group, lr)
    group["k"] += 1
    numbers = Numbers(beta2, 1 - beta2 ** group["k"], group["eps"], group["weight_decay"], share, own_lr, lr)
    return numbers, is_adaptive


def _state(optimizer: ScheduledOptimizer, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square and z of a parameter."""
    state = optimizer.state[p]
    if "z" not in state:
        state["z"] = torch.clone(p, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    if not optimizer.is_laid_out:
        state |= {name: with_strides_of(p, state[name]) for name in STATE}
    return state["exp_avg_sq"], state["z"]


def _step_in_blocks(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    """RAdamScheduleFree's step, bit for bit. It leaves the gradients as they are, which the library's does not."""
    numbers, is_adaptive = _begin_update(group)
    rows: list[Row] = [(p, p.grad, *_state(optimizer, p)) for p in parameters]  # type: ignore[misc]  # it has a gradient
    for _, blocks in bundles(rows):
        for block in blocks:
            _update(block, numbers, is_adaptive)


def _compiled_row(optimizer: ScheduledOptimizer, group: ParamGroup, p: Tensor) -> prepared.Row:
    return prepared.Row(_state(optimizer, p))


def _compiled_numbers(optimizer: ScheduledOptimizer) -> prepared.NumbersOf:
    """Begin RAdamScheduleFree's step: equal to the library's but for rounding."""
    begun = {id(group): _begin_update(group) for group in optimizer.param_groups}

    def numbers(group: ParamGroup, key: float) -> tuple[float, ...]:
        (beta2, *rest), is_adaptive = begun[id(group)]
        return (beta2, 1.0 - beta2, *rest, float(is_adaptive))

    return numbers


def _rectification(group: ParamGroup) -> tuple[float, bool]:
    """Return RAdam's factor on the lr at this update, and whether the variance is known well enough to divide by."""
    step, beta2 = group["k"] + 1, group["betas"][1]
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 4.0:
        return float(not group["silent_sgd_phase"]), False
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return float(ratio**0.5), True


def _move_average(group: ParamGroup, lr: float) -> tuple[float, float]:
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
    direction: Tensors = gradient
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


_IN_BLOCKS = Kernel(
    name="schedule_free_radam",
    shown_as="blocks",
    classes=(RAdamScheduleFree,),
    implementations=("auto", "blocks"),
    step=by_group(_step_in_blocks),
    before=_check_train_mode,
    unsupported_reason=_unsupported_reason,
    state_names=STATE,
)
_COMPILED = replace(
    _IN_BLOCKS,
    name="compiled_schedule_free_radam",
    shown_as="compiled",
    implementations=("compiled", "auto"),
    step=partial(
        prepared.take_step, formula=prepared.Formula("schedule_free_radam", _compiled_row, _compiled_numbers, 8)
    ),
    unsupported_reason=_unsupported_by_compiled,
    scales_gradients=True,
    norms=compiled.joint_norms,
    repays=repays,
    next_best=_IN_BLOCKS,
)

KERNELS = (_COMPILED, _IN_BLOCKS)
