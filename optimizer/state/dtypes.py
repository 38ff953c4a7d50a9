"""Types of tensors as text, and kinds of numbers."""

import torch
from torch import Tensor

from ..config.messages import shown_value


def torch_name(value: torch.dtype | torch.layout) -> str:
    """Return the name of a dtype or layout without the prefix `torch.`."""
    return str(value).removeprefix("torch.")


def parse_dtype(name: object) -> torch.dtype:
    """Return the dtype with this name.

    Args:
        name: with or without the prefix `torch.`.

    Raises:
        ValueError: There is no such dtype.
    """
    dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{shown_value(name)} is not the name of a dtype")
    return dtype


def number_kind(tensor: Tensor) -> tuple[bool, bool]:
    """Return whether `tensor` holds real and whether it holds complex numbers: values keep their meaning within a
    kind."""
    return tensor.is_floating_point(), tensor.is_complex()
