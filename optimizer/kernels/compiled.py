"""Compiled steps of Adam, AdamW and cautious SGD: all parameters of a group in one call.

The code is C on the CPU and Triton on CUDA devices. The formulas are in `kernels.fused` and `kernels.cautious`.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.cautious import Caution
from ..transforms.local_shards import LocalShards, Waiting, active_shards, move_waiting
from ..transforms.memory_layout import with_strides_of
from ..transforms.weight_decay import decoupled_decay, l2_penalty
from ..types import MOMENTS, ParamGroup
from . import cautious, fused, native, native_library
from .cautious import BUFFER, sgd_buffer
from .limits import repays, repays_adam
from .moments import adam_state, cast_moments, count_step
from .stepping import by_group, unsupported_group

FAILURES: dict[tuple[str, torch.device, torch.dtype, torch.dtype, str | None], str] = {}
"""Why compiling failed, by step, device, types and the value of `CC`; forgotten where `compiled` is asked for."""


def unsupported_reason(step: str, optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    """Return why the compiled step of that name cannot take the steps of `group`, or None."""
    reason = unsupported_group(group, {"cpu": tuple(native_library.REALS), "cuda": (torch.float32,)})
    if reason is not None or not group["params"]:
        return reason
    p = group["params"][0]
    return uncompilable(step, p.device, p.dtype, optimizer.step_options.state_dtype or p.dtype)


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


def run(
    step: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool = False,
    moments_at: int | None = None,
    shards: LocalShards | None = None,
    scale: Tensor | None = None,
) -> None:
    """Take a step on the device of its tensors.

    Args:
        step: as for `native.run`, like the next four.
        shards: those of an optimizer that is on its shards, for a cautious step, which then only counts, and waits.
        scale: a scalar on the gradients; None: 1.
    """
    if not rows:
        return
    is_on_device = rows[0][0].is_cuda
    factor = 1.0 if scale is None or is_on_device else scale.item()
    if is_on_device:
        from . import gpu
    if shards is None:
        if is_on_device:
            gpu.run(step, rows, numbers, choice, scale)
        else:
            native.run(step, rows, numbers, choice, moments_at, factor)
        return
    parameters = [row[0] for row in rows]
    wholes = list(map(shards.whole_size, parameters))
    if is_on_device:
        counted = gpu.count(step, rows, numbers, choice, wholes, scale)
    else:
        counted = native.count(step, rows, numbers, choice, moments_at, wholes, factor)
    shards.waiting.append(Waiting(parameters, *counted))


def joint_norm(tensors: Sequence[Tensor]) -> float | None:
    """Return the joint L2 norm of plain tensors on the CPU, of one type; None without a compiled library."""
    try:
        norms = native.norms(tensors)
    except OSError:
        return None
    return float(torch.linalg.vector_norm(norms, dtype=torch.float64))


def gradients_of(optimizer: ScheduledOptimizer, parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of `parameters`, which all have one, with the strides of their parameters."""
    gradients: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]  # they have one
    return gradients if optimizer.is_laid_out else list(map(with_strides_of, parameters, gradients))


def _unsupported_sgd(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    if group["momentum"] == 0:
        return "it does not support SGD without momentum"
    return unsupported_reason("cautious_sgd", optimizer, group)


def _unsupported_state_dtype(optimizer: ScheduledOptimizer) -> str | None:
    devices = [p.device for group in optimizer.param_groups for p in group["params"] if not p.is_cpu]
    return f"steps that are compiled on {devices[0]}" if devices else None


def _step_adam(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    caution = optimizer.step_options.caution
    states = [adam_state(optimizer, p) for p in parameters]
    counts = [step for step, _, _ in states]
    gradients = gradients_of(optimizer, parameters)
    rows = [
        (p, gradient, average, square)
        for p, gradient, (_, average, square) in zip(parameters, gradients, states, strict=True)
    ]
    numbers_at = cache(partial(_adam_numbers, group, caution or Caution()))
    numbers = [numbers_at(step.item() + 1) for step in counts]
    if caution is None:
        run("adam", rows, numbers, moments_at=2, scale=optimizer.gradient_scale)
    else:
        shards = active_shards(optimizer)
        run("cautious_adam", rows, numbers, moments_at=2, shards=shards, scale=optimizer.gradient_scale)
    count_step(counts)


def _adam_numbers(group: ParamGroup, caution: Caution, step: float) -> tuple[float, ...]:
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    root, size = 1.0 / math.sqrt(1.0 - beta2**step), lr / (1.0 - beta1**step)
    means = (1.0 - beta1, beta2, 1.0 - beta2, group["eps"], root, size)
    decay, penalty = 1.0 - lr * decoupled_decay(group), l2_penalty(group)
    return (*means, decay, penalty, _sign(group), caution.min_mean, caution.eps, step)


def _step_sgd(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    rows, numbers = [], []
    caution = optimizer.step_options.caution
    assert caution is not None  # or another kernel would have been chosen
    rest = (float(group["lr"]), l2_penalty(group), _sign(group), caution.min_mean, caution.eps)
    for p, gradient in zip(parameters, gradients_of(optimizer, parameters), strict=True):
        buffer, is_first = sgd_buffer(optimizer, p)
        rows.append((p, gradient, buffer))
        # The first buffer is the gradient, not dampened.
        numbers.append((group["momentum"], 1.0 if is_first else 1.0 - group["dampening"], *rest))
    shards = active_shards(optimizer)
    run("cautious_sgd", rows, numbers, group["nesterov"], shards=shards, scale=optimizer.gradient_scale)


def _sign(group: ParamGroup) -> float:
    return -1.0 if group["maximize"] else 1.0


_ADAM = Kernel(
    name="compiled_adam",
    shown_as="compiled",
    classes=(Adam, AdamW),
    implementations=("compiled", "auto"),
    step=by_group(_step_adam),
    unsupported_reason=partial(unsupported_reason, "adam"),
    state_names=MOMENTS,
    scales_gradients=True,
    norm=joint_norm,
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
        step=by_group(_step_adam, after=move_waiting),
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
        step=by_group(_step_sgd, after=move_waiting),
        unsupported_reason=_unsupported_sgd,
        state_names=BUFFER,
        cautious=True,
        scales_gradients=True,
        norm=joint_norm,
        repays=repays,
        next_best=cautious.CAUTIOUS_SGD,
    ),
)
