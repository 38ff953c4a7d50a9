"""The precision of losses."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, to sum or square it without loss; in float64 if it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
