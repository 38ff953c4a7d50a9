"""Gradients of several components at once: whether they are finite, and their joint norm."""

from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from optimizer.config import counted
from optimizer.transforms import clip_to_norm


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether every element of every tensor is finite: one pass over memory, one wait for each device."""
    plain: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if type(tensor) is Tensor and tensor.is_floating_point() and tensor.is_contiguous():
            plain.setdefault(tensor.device, []).append(tensor)
        elif count_nonfinite(tensor):
            return False
    flags = []
    for device, some in plain.items():
        flag = torch.zeros((), device=device)
        # What GradScaler uses: it multiplies by 1, and raises the flag.
        torch._amp_foreach_non_finite_check_and_unscale_(some, flag, _one(device))
        flags.append(flag)
    return not any(bool(flag) for flag in flags)


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


def count_nonfinite(tensor: Tensor) -> int:
    """Return how many elements of `tensor` are NaN or infinite."""
    if tensor.is_sparse:
        tensor = tensor._values()  # coalescing would cost a sort
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    return tensor.numel() - int(torch.isfinite(tensor.detach()).sum())


def first_nonfinite(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Return the name of the first tensor that is not finite, and how many of its values are not; None if all are."""
    for name, tensor in named:
        if tensor is not None and (bad := count_nonfinite(tensor)):
            return f"{name} ({bad:,} of {counted(tensor.numel(), 'value', f'{tensor.numel():,}')})"
    return None


def clip(gradients: list[Tensor], max_norm: float) -> None:
    """Scale `gradients` in place so that their joint L2 norm is at most `max_norm`.

    Where the norm is not finite they stay as they are: the scaler skips the components that overflowed, and
    those that did not are stepped by their own gradients.
    """
    clip_to_norm(gradients, max_norm, keep_overflowed=True)
