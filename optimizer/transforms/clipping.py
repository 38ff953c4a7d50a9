"""Gradient clipping inside the step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer


@torch.no_grad()
def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the joint L2 norm of `gradients`.

    Args:
        gradients: dense, sparse or sharded (DTensor), of any types and devices. A sparse one counts as the dense one
            that it stands for: several values of an element are added up first. Of sharded ones the norm of the whole
            counts.

    Returns:
        A scalar, on the device of the first gradient.
    """
    parts: dict[bool, list[Tensor]] = {}
    for gradient in gradients:
        dense = gradient.coalesce().values() if gradient.is_sparse else gradient
        parts.setdefault(hasattr(dense, "full_tensor"), []).append(dense)
    norms = [_whole(get_total_norm(of_kind)) for of_kind in parts.values()]
    if len(norms) == 1:
        return norms[0]
    return (
        torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
        if norms
        else torch.zeros(())
    )


@torch.no_grad()
def scale(gradients: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply `gradients`, dense, sparse or sharded, with the scalar `factor` in place."""
    parts: dict[tuple[type, torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        values = gradient._values() if gradient.is_sparse else gradient  # also right before they are added up
        parts.setdefault((type(values), values.device, values.dtype), []).append(values)
    for (_, device, _), tensors in parts.items():
        torch._foreach_mul_(tensors, factor.to(device))


def has_overflowed(optimizer: Optimizer) -> bool:
    """Return whether GradScaler, which calls a fused step all the same, has found gradients that are not finite."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(torch.any(found_inf))


def factor_for(norm: Tensor, max_norm: float) -> Tensor:
    """Return the factor on gradients of this joint norm after which it is at most `max_norm`, as torch computes it."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)


def clip_before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Step-pre hook: scale the gradients of `optimizer` so that their joint L2 norm is at most its `grad_clip_norm`.

    The norm before is left as its `grad_norm`. A closure makes the gradients inside the step: they are clipped there.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _clip(optimizer)
        return None

    def clipped_closure() -> object:
        loss = closure()
        _clip(optimizer)
        return loss

    return (args[0], clipped_closure, *args[2:]), {key: kwargs[key] for key in kwargs if key != "closure"}


def _clip(optimizer: Any) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters:
        return
    # Under GradScaler a fused step is handed gradients that are still multiplied by the scale.
    loss_scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    max_norm: float = optimizer.step_options.grad_clip_norm
    if loss_scale is None:
        norm = _clipped(parameters, max_norm)
    else:
        norm = _clipped(parameters, max_norm * float(loss_scale)) / loss_scale
    if torch.compiler.is_compiling():  # which drops what traced code sets on an optimizer
        torch.compiler.disable(_keep)(optimizer, norm)  # type: ignore[no-untyped-call]  # torch
    else:
        _keep(optimizer, norm)


@torch.no_grad()
def _clipped(parameters: list[Tensor], max_norm: float) -> Tensor:
    """Clip as torch does, without its sorting by device and type, which is most of the cost for small parameters."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(gradient.is_sparse for gradient in gradients):
        norm: Tensor = total_norm(gradients)
        scale(gradients, factor_for(norm, max_norm))
        return norm
    dtype = gradients[0].dtype
    is_simple = all(type(g) is Tensor and g.is_cpu and g.dtype is dtype and not g.is_sparse for g in gradients)
    if not is_simple or torch.compiler.is_compiling():
        return clip_grad_norm_(parameters, max_norm)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    factor = factor_for(norm, max_norm)
    if factor != 1.0:
        torch._foreach_mul_(gradients, factor)
    return norm


def _keep(optimizer: Any, norm: Tensor) -> None:
    optimizer.grad_norm = _whole(norm)


def _whole(norm: Tensor) -> Tensor:
    whole: Any = getattr(norm, "full_tensor", None)  # of sharded gradients it is a DTensor
    full: Tensor = norm if whole is None else whole()
    return full
