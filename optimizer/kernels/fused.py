"""Fused steps. That of Adam and AdamW omits torch's preparations around it: the same operations on the same state.

For small components most of a step is Python; torch sorts the tensors by device and type again at each update.

The t-th step of Adam or AdamW, t from 1, for a parameter theta with the gradient g (-g with `maximize`), elementwise:

    g     = g + lambda * theta                      Adam's L2 penalty
    theta = theta - lr * lambda * theta             AdamW's decoupled decay, in its place
    m     = beta1 * m + (1 - beta1) * g             exp_avg
    v     = beta2 * v + (1 - beta2) * g^2           exp_avg_sq
    m_hat = m / (1 - beta1^t)
    v_hat = v / (1 - beta2^t)
    theta = theta - lr * m_hat / (sqrt(v_hat) + eps)

Source: Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2,
with the lr as a factor of the decay, as in torch.optim.AdamW.
"""

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.memory_layout import with_strides_of
from ..transforms.weight_decay import DECOUPLED_FLAG
from ..types import MOMENTS, ParamGroup
from .moments import adam_state, cast_moments, check_class_step, count_step, unsupported_by_fused
from .step_tensors import StepTensors
from .stepping import checked_step, step_of_class, unsupported_group, unsupported_step
from .switches import are_fusable, is_left_by_fused

ADAM_STATE = (*MOMENTS, "max_exp_avg_sq")


def fused_adam_step(optimizer: ScheduledOptimizer) -> None:
    """Adam's or AdamW's fused step, for groups whose parameters are of one device and one type.

    The class takes the first update of a parameter, updates under GradScaler, and those of other groups.

    Raises:
        RuntimeError: if a group is not fused any more, and the optimizer has a `state_dtype`.
        RuntimeError, ValueError, TypeError: as `unsupported_step` does.
    """
    reason, tensors = checked_step(optimizer)
    if optimizer.step_options.state_dtype is not None:
        if reason is not None:
            check_class_step(optimizer, reason)
        _make_moments(optimizer)
        tensors = StepTensors(optimizer, MOMENTS)
    if reason is not None or not all(tensors.states) or getattr(optimizer, "found_inf", None) is not None:
        step_of_class(optimizer)
        return
    for group, begin, end in tensors.groups:
        if begin < end:
            _step_group(group, tensors, slice(begin, end), optimizer.is_laid_out)


def fused_class_step(optimizer: ScheduledOptimizer) -> None:
    """The class's own fused step, after all tensors were given the strides that it assumes.

    As soon as there is a tensor that no fused step can read, as a sparse gradient, the class takes its other step. So
    does a late group of SGD in half precision, which the fused step would not move.

    Raises:
        RuntimeError, ValueError, TypeError: as `unsupported_step` does.
    """
    if unsupported_step(optimizer) is not None:
        for group in optimizer.param_groups:
            if group["fused"] and not are_fusable(type(optimizer), group["params"]):
                group["fused"] = False
    step_of_class(optimizer)


def _unsupported_by_adam(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return _unfused(optimizer, group) or unsupported_group(group, {"cpu": types, "cuda": types})


def _unfused(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    return None if group["fused"] else "its groups are not fused"


def _unfused_by_class(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    is_left = is_left_by_fused(type(optimizer), group["params"])
    return "PyTorch's fused SGD does not move parameters in half precision" if is_left else _unfused(optimizer, group)


def _make_moments(optimizer: ScheduledOptimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                adam_state(optimizer, p, p.device)


def _step_group(group: ParamGroup, tensors: StepTensors, rows: slice, is_laid_out: bool) -> None:
    parameters, gradients, states = tensors.parameters[rows], tensors.gradients[rows], tensors.states[rows]
    if not is_laid_out:
        gradients = list(map(with_strides_of, parameters, gradients))
        for p, state in zip(parameters, states, strict=True):
            state |= {name: with_strides_of(p, state[name]) for name in MOMENTS}
    average, square = MOMENTS
    steps = [state["step"] for state in states]
    count_step(steps)
    averages, squares = ([state[name] for state in states] for name in (average, square))
    fused_update(group, parameters, gradients, averages, squares, steps)


def fused_update(
    group: ParamGroup,
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
) -> None:
    """Update parameters of one type and device, with the numbers of `group`; `steps` count this update already."""
    update = torch._fused_adamw_ if group[DECOUPLED_FLAG] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    update(
        parameters,
        gradients,
        averages,
        squares,
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


FUSED = Kernel(
    name="fused",
    shown_as="fused",
    classes=(Adam, AdamW, SGD, Adagrad),
    implementations=("auto", "fused"),
    step=fused_class_step,
    unsupported_reason=_unfused_by_class,
    state_names=("momentum_buffer", "sum", *ADAM_STATE),
)
FUSED_ADAM = Kernel(
    name="fused_adam",
    shown_as="fused",
    classes=(Adam, AdamW),
    implementations=("auto", "fused"),
    step=fused_adam_step,
    unsupported_reason=_unsupported_by_adam,
    state_names=ADAM_STATE,
    unsupported_state_dtype=unsupported_by_fused,
    after_load=cast_moments,
    next_best=FUSED,
)

KERNELS = (FUSED_ADAM, FUSED)
