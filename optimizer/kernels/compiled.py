"""Compiled steps of Adam, AdamW, cautious SGD and schedule-free RAdam: all parameters of a group in one call."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from optimizer.cautious import Caution
from optimizer.kernels import native
from optimizer.kernels.cautious import adam_state, decay_of, penalty_of, sgd_buffer
from optimizer.kernels.schedule_free_radam import begin_update, check_train_mode
from optimizer.kernels.stepping import Group, has_plain_options, stepped
from optimizer.memory_layout import is_dense, laid_out_as


@Optimizer.profile_hook_step
def compiled_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's step, cautious or not."""
    return stepped(optimizer, closure, _step_adam, _is_known)


@Optimizer.profile_hook_step
def compiled_sgd_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """SGD's step with momentum, cautious."""
    return stepped(optimizer, closure, _step_sgd, _is_known)


@Optimizer.profile_hook_step
def compiled_schedule_free_radam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """RAdamScheduleFree's step: equal to the library's but for rounding."""
    check_train_mode(optimizer)
    return stepped(optimizer, closure, _step_radam, _is_known)


def objection(group: Group) -> str | None:
    """Return what compiled steps have against `group`, or None."""
    if group.get("momentum") == 0:
        return "it does not know SGD without momentum"
    if not all(map(is_dense, group["params"])):
        return "a parameter has gaps in memory"
    return None


def _step_adam(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    lr, (beta1, beta2), caution = float(group["lr"]), group["betas"], optimizer.caution or Caution()
    rest = (1.0 - lr * decay_of(group), penalty_of(group), _sign(group), caution.min_mean, caution.eps)
    rows, numbers = [], []
    for p in parameters:
        count, average, square = adam_state(optimizer, p)
        count += 1
        step = float(count)
        rows.append((p, _gradient(p), average, square))
        root, size = 1.0 / math.sqrt(1.0 - beta2**step), lr / (1.0 - beta1**step)
        numbers.append((1.0 - beta1, beta2, 1.0 - beta2, group["eps"], root, size, *rest))
    native.run("adam" if optimizer.caution is None else "cautious_adam", rows, numbers)


def _step_sgd(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    rows, numbers = [], []
    caution = optimizer.caution
    rest = (float(group["lr"]), penalty_of(group), _sign(group), caution.min_mean, caution.eps)
    for p in parameters:
        buffer, is_first = sgd_buffer(optimizer, p)
        rows.append((p, _gradient(p), buffer))
        # The first buffer is the gradient, not dampened.
        numbers.append((group["momentum"], 1.0 if is_first else 1.0 - group["dampening"], *rest))
    native.run("cautious_sgd", rows, numbers, group["nesterov"])


def _step_radam(optimizer: Any, group: Group, parameters: list[Tensor]) -> None:
    rows, (beta2, *rest), is_adaptive = begin_update(optimizer, group, parameters)
    laid_out = [(y, *(laid_out_as(y, tensor) for tensor in others)) for y, *others in rows]
    native.run("schedule_free_radam", laid_out, [(beta2, 1.0 - beta2, *rest)] * len(rows), is_adaptive)


def _gradient(p: Tensor) -> Tensor:
    return laid_out_as(p, p.grad)  # type: ignore[arg-type]  # it has one


def _sign(group: Group) -> float:
    return -1.0 if group["maximize"] else 1.0


def _is_known(group: Group) -> bool:
    parameters = group["params"]
    if not has_plain_options(group) or len({(p.dtype, p.device) for p in parameters}) > 1:
        return False
    if any(p.grad is not None and p.grad.is_sparse for p in parameters):
        return False
    return objection(group) is None and all(p.is_cpu and p.dtype in native.REALS for p in parameters)
