"""Compiled steps of Adam, AdamW and cautious SGD: all parameters of a group in one call.

The code is C on the CPU and Triton on CUDA devices. The formulas are in `kernels.fused` and `kernels.cautious`.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.cautious import Caution
from ..transforms.weight_decay import decoupled_decay, l2_penalty
from ..types import MOMENTS, ParamGroup
from . import cautious, fused, native, native_library
from .cautious import BUFFER, sgd_buffer
from .limits import repays, repays_adam
from .moments import adam_state, cast_moments, moment_dtype
from .prepared import Formula, NumbersOf, Row, take_step
from .stepping import unsupported_group

FAILURES: dict[tuple[str, torch.device, torch.dtype, torch.dtype, str | None], str] = {}
"""Why compiling failed, by step, device, types and the value of `CC`; forgotten where `compiled` is asked for."""


def unsupported_reason(step: str, optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    """Return why the compiled step of that name cannot take the steps of `group`, or None."""
    types: dict[str, Sequence[torch.dtype]] = {
        "cpu": [dtype for dtype, _ in native_library.PAIRS],
        "cuda": (torch.float32,),
    }
    if optimizer.step_options.stochastic_rounding:
        types = {"cpu": (torch.bfloat16,)}
    reason = unsupported_group(group, types)
    if reason is not None or not group["params"]:
        return reason
    p = group["params"][0]
    return uncompilable(step, p.device, p.dtype, moment_dtype(optimizer, p))


def uncompilable(step: str, device: torch.device, dtype: torch.dtype, state_dtype: torch.dtype) -> str | None:
    """Compile a step for parameters of `dtype`; return why that failed, or None. A failure is not tried again."""
    key = step, device, dtype, state_dtype, os.environ.get("CC")
    if key in FAILURES:
        return FAILURES[key]
    try:
        if device.type == "cpu":
            native_library.check_step(step, dtype, state_dtype)
        else:
            from . import gpu

            gpu.check_step(step, device)
    except (OSError, ImportError) as error:
        FAILURES[key] = str(error)
        return str(error)
    return None


def joint_norms(lists: Sequence[Sequence[Tensor]]) -> list[float] | None:
    """Return the joint L2 norm of each list of plain tensors on the CPU, all of one type; None: there is no library."""
    first = lists[0][0]
    if uncompilable("squares", first.device, first.dtype, first.dtype) is not None:
        return None
    squares = iter(native.squares([*chain.from_iterable(lists)]))
    return [math.sqrt(sum(islice(squares, len(tensors)))) for tensors in lists]


def _unsupported_sgd(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    if group["momentum"] == 0:
        return "it does not support SGD without momentum"
    return unsupported_reason("cautious_sgd", optimizer, group)


def _unsupported_state_dtype(optimizer: ScheduledOptimizer) -> str | None:
    devices = [p.device for group in optimizer.param_groups for p in group["params"] if not p.is_cpu]
    return f"steps that are compiled on {devices[0]}" if devices else None


def _adam_row(optimizer: ScheduledOptimizer, group: ParamGroup, p: Tensor) -> Row:
    count, *moments = adam_state(optimizer, p)
    if p.is_cpu and (count.dtype is not torch.float32 or not count.is_cpu or count.is_neg()):
        count = optimizer.state[p]["step"] = count.to("cpu", torch.float32).resolve_neg()  # native.c adds to it
    return Row(tuple(moments), count.item(), count)


def _adam_numbers(optimizer: ScheduledOptimizer) -> NumbersOf:
    caution = optimizer.step_options.caution or Caution()

    def numbers(group: ParamGroup, count: float) -> tuple[float, ...]:
        lr, (beta1, beta2), step = float(group["lr"]), group["betas"], count + 1.0
        root, size = 1.0 / math.sqrt(1.0 - beta2**step), lr / (1.0 - beta1**step)
        means = (1.0 - beta1, beta2, 1.0 - beta2, group["eps"], root, size)
        decay, penalty = 1.0 - lr * decoupled_decay(group), l2_penalty(group)
        return (*means, decay, penalty, _sign(group), caution.min_mean, caution.eps, step)

    return numbers


def _sgd_row(optimizer: ScheduledOptimizer, group: ParamGroup, p: Tensor) -> Row:
    buffer, is_first = sgd_buffer(optimizer, p)
    return Row((buffer,), float(is_first))


def _sgd_numbers(optimizer: ScheduledOptimizer) -> NumbersOf:
    caution, update = optimizer.step_options.caution, float(optimizer.scheduler.last_epoch)
    assert caution is not None  # or another kernel would have been chosen

    def numbers(group: ParamGroup, is_first: float) -> tuple[float, ...]:
        taken = 1.0 if is_first else 1.0 - group["dampening"]  # the first buffer is the gradient, not dampened
        rest = float(group["lr"]), l2_penalty(group), _sign(group), caution.min_mean, caution.eps
        return (group["momentum"], taken, *rest, float(group["nesterov"]), update)

    return numbers


def _sign(group: ParamGroup) -> float:
    return -1.0 if group["maximize"] else 1.0


_ADAM_STEP = Formula("adam", _adam_row, _adam_numbers)
_CAUTIOUS_ADAM_STEP = Formula("cautious_adam", _adam_row, _adam_numbers)
_CAUTIOUS_SGD_STEP = Formula("cautious_sgd", _sgd_row, _sgd_numbers, choice_at=7)

_ADAM = Kernel(
    name="compiled_adam",
    shown_as="compiled",
    classes=(Adam, AdamW),
    implementations=("compiled", "auto"),
    step=partial(take_step, formula=_ADAM_STEP),
    unsupported_reason=partial(unsupported_reason, "adam"),
    state_names=MOMENTS,
    rounds_stochastically=True,
    scales_gradients=True,
    norms=joint_norms,
    unsupported_state_dtype=_unsupported_state_dtype,
    after_load=cast_moments,
    repays=repays_adam,
    next_best=fused.FUSED_ADAM,
)

KERNELS = (
    _ADAM,
    replace(
        _ADAM,
        name="compiled_cautious_adam",
        step=partial(take_step, formula=_CAUTIOUS_ADAM_STEP),
        unsupported_reason=partial(unsupported_reason, "cautious_adam"),
        cautious=True,
        repays=repays,
        next_best=cautious.CAUTIOUS_ADAM,
    ),
    Kernel(
        name="compiled_cautious_sgd",
        shown_as="compiled",
        classes=(SGD,),
        implementations=("compiled", "auto"),
        step=partial(take_step, formula=_CAUTIOUS_SGD_STEP),
        unsupported_reason=_unsupported_sgd,
        state_names=BUFFER,
        cautious=True,
        rounds_stochastically=True,
        scales_gradients=True,
        norms=joint_norms,
        repays=repays,
        next_best=cautious.CAUTIOUS_SGD,
    ),
)
