"""Gradient clipping inside the step."""

import math
from collections.abc import Callable, Sequence
from ctypes import c_float
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from .grad_scaler import loss_scale
from .gradient_norms import quick_norms, total_norm
from .gradient_scale import Scales, scale_all
from .shards import is_sharded
from .step_hooks import has_foreign_hooks, no_autograd
from .step_options import StepOptions
from .tracing import untraced


class Clips(Scales, Protocol):
    """An optimizer with `grad_clip_norm` among its step options."""

    step_options: StepOptions
    grad_norm: Tensor | None


@no_autograd
def clip_to_norm(
    gradients: list[Tensor], max_norm: float, *, keep_overflowed: bool = False, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Scale `gradients` in place so that their joint L2 norm is at most `max_norm`, by torch's formula.

    Args:
        gradients: as for `total_norm`.
        max_norm: at least 0.
        keep_overflowed: whether gradients whose norm is not finite stay as they are, and do not become NaN or 0.
        parameters: as for `total_norm`.

    Returns:
        The norm before clipping, a scalar.
    """
    norm = total_norm(gradients, parameters)
    factor = clip_factor(norm, max_norm, keep_overflowed=keep_overflowed)
    if factor is not None:
        scale_all(gradients, factor)
    return norm


def clip_factor(norm: Tensor, max_norm: float, *, keep_overflowed: bool = False) -> Tensor | None:
    """Return the factor that clips gradients, or None for 1, if their norm is on the CPU.

    Args:
        norm: their joint norm, a scalar. A device is not asked for its value, which would be to wait for it.
        max_norm: as for `clip_to_norm`.
        keep_overflowed: as for `clip_to_norm`.
    """
    if norm.is_cpu and norm.dtype in _ROUND:
        number = float(norm)
        if keep_overflowed and not math.isfinite(number):
            return None
        number = _factor(number, max_norm, _ROUND[norm.dtype])
        return None if number == 1.0 else torch.tensor(number, dtype=norm.dtype, device="cpu")
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if keep_overflowed:
        factor = torch.where(torch.isfinite(norm), factor, 1.0)
    return None if factor.is_cpu and factor == 1.0 else factor


def _factor(norm: float, max_norm: float, rounded: Callable[[float], float]) -> float:
    """Return the factor as torch computes it in the type of `rounded`, whose operations on scalars take longer."""
    factor = rounded(rounded(1.0 / rounded(norm + rounded(1e-6))) * rounded(max_norm))
    return 1.0 if factor > 1.0 else factor


def _single(number: float) -> float:
    return c_float(number).value


_ROUND: dict[torch.dtype, Callable[[float], float]] = {torch.float32: _single, torch.float64: float}
"""By type, how a number is rounded to it."""


def scales_in_step(optimizer: Any) -> bool:
    """Return whether the coming step of `optimizer` may scale gradients as it reads them, and leave `grad` as it is.

    That needs a kernel that does so, and nobody else who looks at `grad`: step hooks of others, or GradScaler.

    Args:
        optimizer: any optimizer. The step has no closure.
    """
    kernel = getattr(optimizer, "kernel", None)
    return (
        kernel is not None
        and kernel.scales_gradients
        and not has_foreign_hooks(optimizer, clip_before_step)
        and getattr(optimizer, "found_inf", None) is None
        and loss_scale(optimizer) is None
    )


def clip_before_step(
    optimizer: Clips, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Step-pre hook: scale the gradients of `optimizer` so that their joint L2 norm is at most its `grad_clip_norm`.

    The norm before is left as its `grad_norm`. A closure makes the gradients inside the step: they are clipped there.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _clip(optimizer, in_step=scales_in_step(optimizer))
        return None

    def clipped_closure() -> object:
        loss: object = closure()
        _clip(optimizer, in_step=False)
        return loss

    return (args[0], clipped_closure, *args[2:]), {key: kwargs[key] for key in kwargs if key != "closure"}


@no_autograd
def _clip(optimizer: Clips, *, in_step: bool) -> None:
    """Clip the gradients in place; or with `in_step` by the scale of the step, on top of one that is set already."""
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [gradient for p in parameters if (gradient := p.grad) is not None]
    if len(gradients) < len(parameters) and not any(map(is_sharded, parameters)):
        parameters = [p for p in parameters if p.grad is not None]  # sharded ones may have a gradient elsewhere
    if not parameters:
        return
    max_norm, loss_factor = optimizer.step_options.grad_clip_norm, loss_scale(optimizer)
    assert max_norm is not None  # this hook is registered only with a norm
    if loss_factor is not None:
        max_norm *= float(loss_factor)
    if torch.compiler.is_compiling():
        norm = _clip_traced(parameters, gradients, max_norm)
    else:
        norm = _norm(optimizer, parameters, gradients, is_known=in_step)
        if in_step:
            clip_in_step(optimizer, norm, max_norm)
            return
        factor = clip_factor(norm, max_norm)
        if factor is not None:
            scale_all(gradients, factor)
    if loss_factor is not None:
        norm = norm / loss_factor
    if torch.compiler.is_compiling():  # which drops what traced code sets on an optimizer
        untraced(_store_norm)(optimizer, norm)
    else:
        _store_norm(optimizer, norm)


def clip_in_step(optimizer: Clips, norm: Tensor, max_norm: float) -> None:
    """Let the coming step scale gradients of this norm to `max_norm`, on top of a scale that is set already.

    Args:
        optimizer: one that `scales_in_step`. The norm before is left as its `grad_norm`.
        norm: that of the gradients as they are.
        max_norm: as for `clip_to_norm`.
    """
    before = optimizer.gradient_scale
    if before is not None:
        norm = norm * before
    factor = clip_factor(norm, max_norm)
    if factor is not None:
        optimizer.gradient_scale = factor if before is None else factor * before
    _store_norm(optimizer, norm)


def _norm(optimizer: Clips, parameters: Sequence[Tensor], gradients: list[Tensor], *, is_known: bool) -> Tensor:
    if len(gradients) < len(parameters):  # some are sharded: all processes send the same
        return total_norm(gradients, parameters)
    norm = optimizer.known_norm if is_known else None
    if norm is None:
        (norm,) = quick_norms([optimizer], [gradients])
    return total_norm(gradients) if norm is None else norm


def _clip_traced(parameters: Sequence[Tensor], gradients: list[Tensor], max_norm: float) -> Tensor:
    if any(gradient.is_sparse for gradient in gradients):
        return clip_to_norm(gradients, max_norm, parameters=parameters if len(gradients) < len(parameters) else ())
    return clip_grad_norm_(parameters, max_norm)


def _store_norm(optimizer: Clips, norm: Tensor) -> None:
    whole: Callable[[], Tensor] | None = getattr(norm, "full_tensor", None)  # torch's norm of DTensors is one, too
    optimizer.grad_norm = norm if whole is None else whole()
