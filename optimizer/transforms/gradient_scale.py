"""A scale that a step multiplies gradients with as it reads them, or that they are multiplied with before it."""

from typing import Any, Protocol

import torch
from torch import Tensor

from ..types import ParamGroup
from .gradient_norms import are_plain
from .shards import local_part


class Scales(Protocol):
    """An optimizer whose step multiplies gradients with a scale."""

    param_groups: list[ParamGroup]
    gradient_scale: Tensor | None
    known_norm: Tensor | None


def scale_in_place(optimizer: Scales) -> None:
    """Multiply the gradients of `optimizer` with its `gradient_scale`, if it has one, and clear that."""
    scale = optimizer.gradient_scale
    if scale is not None:
        optimizer.gradient_scale = optimizer.known_norm = None
        scale_all([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None], scale)


@torch.no_grad()
def scale_all(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply gradients of any kind with a scalar, in place."""
    if are_plain(gradients) and (factor.is_cpu or factor.device == gradients[0].device):
        torch._foreach_mul_(gradients, factor)
        return
    parts: dict[tuple[Any, ...], list[Tensor]] = {}
    for gradient in gradients:
        values = local_part(gradient)
        values = values._values() if values.is_sparse else values  # also right before they are added up
        parts.setdefault((type(values), values.device, values.dtype), []).append(values)
    for (_, device, _), tensors in parts.items():
        torch._foreach_mul_(tensors, factor.to(device))
