"""Gradient clipping inside the step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer


def clip_before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Step-pre hook: scale the gradients of `optimizer` so that their joint L2 norm is at most its
    `grad_clip_norm`, and leave the norm that they had as its `grad_norm`. With a closure the gradients are made
    inside the step, and clipped there.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _clip(optimizer)
        return None

    def clipped_closure() -> Any:
        loss = closure()
        _clip(optimizer)
        return loss

    return (args[0], clipped_closure, *args[2:]), {key: kwargs[key] for key in kwargs if key != "closure"}


def _clip(optimizer: Any) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters:
        return
    # Under GradScaler a fused step is handed gradients that are still multiplied by the scale.
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scale is None:
        norm = _clipped(parameters, optimizer.grad_clip_norm)
    else:
        norm = clip_grad_norm_(parameters, optimizer.grad_clip_norm * float(scale)) / scale
    if torch.compiler.is_compiling():  # which drops what traced code sets on an optimizer
        torch.compiler.disable(_keep)(optimizer, norm)  # type: ignore[no-untyped-call]  # torch
    else:
        _keep(optimizer, norm)


@torch.no_grad()
def _clipped(parameters: list[Tensor], max_norm: float) -> Tensor:
    """Clip as torch does, without its sorting by device and type, which is most of the cost for small parameters."""
    gradients: Any = [p.grad for p in parameters]
    dtype = gradients[0].dtype
    is_simple = all(type(g) is Tensor and g.is_cpu and g.dtype is dtype and not g.is_sparse for g in gradients)
    if not is_simple or torch.compiler.is_compiling():
        return clip_grad_norm_(parameters, max_norm)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if factor != 1.0:
        torch._foreach_mul_(gradients, factor)
    return norm


def _keep(optimizer: Any, norm: Tensor) -> None:
    whole = getattr(norm, "full_tensor", None)  # of sharded gradients it is a DTensor
    optimizer.grad_norm = norm if whole is None else whole()
