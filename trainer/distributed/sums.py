"""Sums and means over the processes that gradients pass through."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .world import World


def sum_over(world: World, tensor: Tensor) -> Tensor:
    """Return the sum of a floating-point tensor over the processes. All of them call, and all or none need a gradient.

    The gradient of each process is the sum over the processes of those of their results: exact where the loss of the
    run is the sum of their losses.
    """
    if world.gradients is None:
        return tensor
    return _summed(tensor, world.gradients)


def mean_over(world: World, values: Tensor, counts: bool = True) -> Tensor:
    """Return the mean of `values` over their elements in all processes.

    Args:
        world: The processes, which all call.
        values: Floating-point numbers.
        counts: Whether those of this process count. In one of the processes at least they do.
    """
    if world.gradients is None:
        return values.mean()
    wide = values.double()
    count = torch.full((), values.numel() if counts else 0, dtype=wide.dtype, device=wide.device)
    total, number = sum_over(world, torch.stack([counted(wide.sum(), counts), count])).unbind()
    return (total / number).to(values.dtype)


def counted(tensor: Tensor, counts: bool) -> Tensor:
    """Return `tensor`, or zeros if it does not count, whatever is in it. Both have a graph."""
    return tensor if counts else torch.where(torch.zeros_like(tensor, dtype=torch.bool), tensor, 0)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over a group. Its gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        summed = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.group), None


def _summed(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    summed: Tensor = _Sum.apply(tensor, group)  # type: ignore[no-untyped-call]  # torch
    return summed
