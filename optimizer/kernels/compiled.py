"""Compiled steps of Adam, AdamW, cautious SGD and schedule-free RAdam: all parameters of a group in one call.

On the CPU they are C, on CUDA devices Triton.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..scheduling.optimizer import MOMENTS
from ..transforms.cautious import Caution
from ..transforms.memory_layout import laid_out_as
from . import native
from .cautious import BUFFER, decay_of, penalty_of, sgd_buffer
from .moments import adam_state, count
from .schedule_free_radam import STATE, begin_update, check_train_mode
from .stepping import Group, objection_to, stepped

FAILURES: dict[tuple[str, torch.dtype, torch.dtype], str] = {}
"""What is missing to compile, by device and types, since an optimizer was last built."""


@Optimizer.profile_hook_step
def compiled_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's step, cautious or not."""
    return stepped(optimizer, closure, _step_adam, objection, MOMENTS)


@Optimizer.profile_hook_step
def compiled_sgd_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """SGD's step with momentum, cautious."""
    return stepped(optimizer, closure, _step_sgd, objection, BUFFER)


@Optimizer.profile_hook_step
def compiled_schedule_free_radam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """RAdamScheduleFree's step: equal to the library's but for rounding."""
    check_train_mode(optimizer)
    return stepped(optimizer, closure, _step_radam, objection, STATE)


def objection(optimizer: Any, group: Group) -> str | None:
    """Return what compiled steps have against `group`, or None."""
    if group.get("momentum") == 0:
        return "it does not know SGD without momentum"
    reason = objection_to(group, {"cpu": tuple(native.REALS), "cuda": (torch.float32,)})
    if reason is not None or not group["params"]:
        return reason
    p = group["params"][0]
    return uncompilable(p.device.type, p.dtype, optimizer.state_dtype or p.dtype)


def uncompilable(device: str, dtype: torch.dtype, state_dtype: torch.dtype) -> str | None:
    """Compile for parameters of `dtype`; return what is missing for it, or None. What failed is not tried again."""
    if (device, dtype, state_dtype) in FAILURES:
        return FAILURES[device, dtype, state_dtype]
    try:
        if device == "cpu":
            native.library(dtype, state_dtype)
        else:
            from . import gpu  # noqa: F401
    except (OSError, ImportError) as error:
        FAILURES[device, dtype, state_dtype] = str(error)
        return str(error)
    return None


def _step_adam(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    states = [adam_state(optimizer, p) for p in parameters]
    counts = [step for step, _, _ in states]
    rows = [(p, _gradient(p), average, square) for p, (_, average, square) in zip(parameters, states, strict=True)]
    numbers_at = cache(partial(_adam_numbers, group, optimizer.caution or Caution()))
    numbers = [numbers_at(step.item() + 1) for step in counts]
    _run("adam" if optimizer.caution is None else "cautious_adam", rows, numbers)
    count(counts)


def _adam_numbers(group: Group, caution: Caution, step: float) -> tuple[float, ...]:
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    root, size = 1.0 / math.sqrt(1.0 - beta2**step), lr / (1.0 - beta1**step)
    means = (1.0 - beta1, beta2, 1.0 - beta2, group["eps"], root, size)
    return (*means, 1.0 - lr * decay_of(group), penalty_of(group), _sign(group), caution.min_mean, caution.eps, step)


def _step_sgd(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    rows, numbers = [], []
    caution = optimizer.caution
    rest = (float(group["lr"]), penalty_of(group), _sign(group), caution.min_mean, caution.eps)
    for p in parameters:
        buffer, is_first = sgd_buffer(optimizer, p)
        rows.append((p, _gradient(p), buffer))
        # The first buffer is the gradient, not dampened.
        numbers.append((group["momentum"], 1.0 if is_first else 1.0 - group["dampening"], *rest))
    _run("cautious_sgd", rows, numbers, group["nesterov"])


def _step_radam(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    rows, (beta2, *rest), is_adaptive = begin_update(optimizer, group, parameters)
    rows = [(y, _gradient(y), *states) for y, _, *states in rows]
    _run("schedule_free_radam", rows, [(beta2, 1.0 - beta2, *rest)] * len(rows), is_adaptive)


def _gradient(p: Tensor) -> Tensor:
    return laid_out_as(p, p.grad)  # type: ignore[arg-type]  # it has one


def _sign(group: Group) -> float:
    return -1.0 if group["maximize"] else 1.0


def _run(name: str, rows: list[Any], numbers: list[Any], choice: bool = False) -> None:
    if rows and rows[0][0].is_cuda:
        from . import gpu

        gpu.run(name, rows, numbers, choice)
    else:
        native.run(name, rows, numbers, choice)
