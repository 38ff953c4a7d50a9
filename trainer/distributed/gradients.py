"""Gradients of replicated components, averaged over the processes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from .world import World


@torch.no_grad()
def average_gradients(world: World, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradient of each parameter by its mean over the processes.

    A process that has no gradient of a parameter counts as zero, if another one has it.
    """
    if world.gradients is None or not parameters:
        return
    flat = torch.cat([_flat_gradient(parameter) for parameter in parameters])
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=flat.dtype)
    whole = torch.cat([flat, present.to(flat.device)])
    dist.all_reduce(whole, group=world.gradients)
    whole[: flat.numel()] /= world.size
    found = (whole[flat.numel() :] > 0).tolist()
    parts = torch.split(whole[: flat.numel()], [parameter.numel() for parameter in parameters])
    for parameter, part, is_there in zip(parameters, parts, found, strict=True):
        parameter.grad = part.view_as(parameter).clone() if is_there else None


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    return parameter.grad.reshape(-1)
