"""Which tensors a safetensors file can hold."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..transforms.shards import is_sharded, local_tensor
from .dtypes import torch_name
from .sharded_tensors import unsupported_placement

_RESERVED = "__metadata__"


def unsavable_reason(name: str, tensor: object) -> str | None:
    """Return why `tensor` cannot be saved under `name`, or None if it can."""
    return unsavable_name_reason(name) or unsavable_tensor_reason(tensor)


def unsavable_name_reason(name: str) -> str | None:
    """Return why no tensor can be saved under `name`, or None if one can."""
    if name == _RESERVED:
        return "safetensors keeps this name for itself. Choose another."
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid Unicode text. Choose another."
    return None


def unsavable_tensor_reason(tensor: object) -> str | None:
    """Return why `tensor` cannot be saved under any name, or None if it can."""
    if not isinstance(tensor, Tensor):
        return f"it is a {type(tensor).__name__}, where a tensor is expected"
    if not is_lazy(tensor) and (tensor.is_quantized or not _is_supported(tensor.dtype)):
        return f"safetensors has no type for {tensor.dtype}. Keep it in another type, or leave it out."
    return unreadable_reason(tensor)


def unreadable_reason(tensor: Tensor) -> str | None:
    """Return why the values of `tensor` cannot be read one after another from its memory, or None if they can."""
    if is_lazy(tensor):
        return "it has no shape yet. Run the lazy module in the objective's losses, or give its size."
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else f"sparse ({torch_name(tensor.layout)})"
        return f"it is {kind}. Keep a dense tensor, or leave it out (persistent=False) and make it when loading."
    if is_sharded(tensor):
        return unsupported_placement(tensor) or unreadable_reason(local_tensor(tensor))
    if tensor.is_meta:
        return "it is on the device `meta`, without values. Load or make its values first."
    try:
        address = tensor.untyped_storage().data_ptr()
    except Exception as error:  # a subclass of Tensor may raise anything
        return f"it is a {type(tensor).__name__}, whose values cannot be read: {type(error).__name__}: {error}"
    if tensor.numel() and not address:
        return f"it is a {type(tensor).__name__} without allocated memory. Keep its values in plain tensors."
    return None


@lru_cache
def _is_supported(dtype: torch.dtype) -> bool:
    """Return whether an empty tensor of this type comes back from safetensors with the same type."""
    from safetensors.torch import load, save

    try:
        return load(save({"x": torch.empty(0, dtype=dtype)}))["x"].dtype == dtype
    except (KeyError, RuntimeError, TypeError, NotImplementedError):
        return False
