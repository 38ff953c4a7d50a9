"""Whole steps of one tensor as functions for torch.compile: each is traced once, for all sizes and all numbers."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

SMALLEST = 16_384
"""Elements below which a call of compiled code costs more than it saves."""


@cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return `function` compiled for tensors of one dimension and any length."""
    return torch.compile(function, dynamic=True, fullgraph=True)


def suits(*tensors: Tensor) -> bool:
    """Return whether a parameter and what belongs to it are worth a call of compiled code."""
    if tensors[0].dtype not in (torch.float32, torch.float64):
        return False
    return tensors[0].numel() >= SMALLEST and all(tensor.is_contiguous() for tensor in tensors)


def run(function: Callable[..., None], tensors: tuple[Tensor, ...], numbers: list[float], *choices: bool) -> None:
    """Call the compiled `function` on flat tensors. numbers: as a tensor, so that new ones are not traced anew."""
    held = torch.tensor(numbers, dtype=tensors[0].dtype, device=tensors[0].device)
    compiled(function)(*(tensor.view(-1) for tensor in tensors), held, *choices)


def cautious_adam(p: Tensor, gradient: Tensor, average: Tensor, square: Tensor, h: Tensor, penalty: bool) -> None:
    """Take a cautious Adam step in place.

    h: 1 - beta1, beta2, eps, sqrt(1 - beta2^t), lr / (1 - beta1^t), what decoupled decay keeps, the L2 penalty,
    the least mean, the caution's eps.
    """
    whole = gradient + h[6] * p if penalty else gradient
    coming = torch.lerp(average, whole, h[0])
    share = (coming * gradient > 0).sum() / p.numel()
    scale = h[4] / (torch.maximum(share, h[7]) + h[8])
    squared = square * h[1] + whole * whole * (1.0 - h[1])
    update = coming / (squared.sqrt() / h[3] + h[2])
    # A step that is not a number stays so; a mask to multiply with, as in the formula, the compiler does not vectorise.
    p.copy_(p * h[5] - torch.where(coming * gradient > 0, update, update * 0.0) * scale)
    average.copy_(coming)
    square.copy_(squared)


def cautious_sgd(p: Tensor, gradient: Tensor, buffer: Tensor, h: Tensor, penalty: bool, nesterov: bool) -> None:
    """Take a cautious SGD step with momentum in place.

    h: momentum, what dampening leaves of the gradient, lr, the L2 penalty, the least mean, the caution's eps.
    """
    whole = gradient + h[3] * p if penalty else gradient
    kept = buffer * h[0] + whole * h[1]
    direction = whole + kept * h[0] if nesterov else kept
    share = (direction * gradient > 0).sum() / p.numel()
    scale = h[2] / (torch.maximum(share, h[4]) + h[5])
    p.sub_(torch.where(direction * gradient > 0, direction, direction * 0.0) * scale)
    buffer.copy_(kept)


def schedule_free_radam(y: Tensor, gradient: Tensor, square: Tensor, z: Tensor, h: Tensor, adaptive: bool) -> None:
    """Take a step of schedulefree's RAdamScheduleFree in place.

    h: beta2, 1 - beta2^t, eps, weight decay, the new average's share of z, y's own lr, lr.
    """
    squared = square * h[0] + gradient * gradient * (1.0 - h[0])
    direction = gradient / ((squared / h[1]).sqrt() + h[2]) if adaptive else gradient
    direction = direction + h[3] * y  # also where that is 0: without it the compiler makes two loops of one
    y.copy_(torch.lerp(y, z, h[4]) + h[5] * direction)
    z.sub_(h[6] * direction)
    square.copy_(squared)
