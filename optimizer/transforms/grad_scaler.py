"""The attributes that GradScaler sets on an optimizer while it calls a fused step."""

import torch
from torch import Tensor


def has_overflowed(optimizer: object) -> bool:
    """Return whether GradScaler, which calls a fused step in any case, has found gradients that are not finite."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(torch.any(found_inf))


def loss_scale(optimizer: object) -> Tensor | None:
    """Return the factor that the gradients of a fused step still have, or None."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return scale
