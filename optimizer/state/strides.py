"""Strides in files of contiguous tensors: they are state, as the rounding of a product depends on them."""

import json
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from ..transforms.memory_layout import is_dense
from ..transforms.shards import is_sharded

STRIDES = "strides"
"""The metadata entry {NAME: the dimensions from the widest stride to the narrowest}, of tensors with other strides than
a new tensor has."""


def without_sharing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without gaps in memory, and none sharing it with another."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        plain = tensor.detach().resolve_conj().resolve_neg()
        if not is_dense(plain):
            plain = plain.contiguous()
        result[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return result


def with_stride_orders(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return `metadata` with the strides of the tensors, if there is any: a file holds them contiguous."""
    orders = {name: _stride_order(tensor) for name, tensor in tensors.items() if not has_default_strides(tensor)}
    return {**(metadata or {}), **({STRIDES: json.dumps(orders)} if orders else {})} or None


def restore_strides(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, Tensor]:
    """Return the tensors of a file with the strides that they were saved with; sharded ones are returned as they are.

    Raises:
        ValueError: The recorded strides are not an order of a tensor's dimensions.
    """
    orders = _read_orders((metadata or {}).get(STRIDES, "{}"))
    result = dict(tensors)
    for name, order in orders.items():
        tensor = result.get(name)
        if tensor is None or not _is_order(order, tensor.ndim):
            raise ValueError(f"{STRIDES}: {str(order)[:80]} is not the order of the dimensions of {name!r}")
        if not is_sharded(tensor):
            result[name] = _with_order(tensor, order)
    return result


def has_default_strides(tensor: Tensor) -> bool:
    """Return whether `tensor` has the strides of a new one of its shape, also in dimensions of size 1 or 0."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != step:
            return False
        step *= max(size, 1)
    return True


def _read_orders(text: str) -> dict[str, object]:
    try:
        orders = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{STRIDES}: nested too deeply") from error
    if not isinstance(orders, dict):
        raise ValueError(f"{STRIDES}: must be an object; got {text[:80]}")
    return orders


def _is_order(order: object, dimensions: int) -> TypeGuard[list[int]]:
    return (
        isinstance(order, list)
        and len(order) == dimensions
        and all(type(index) is int for index in order)
        and sorted(order) == list(range(dimensions))
    )


def _stride_order(tensor: Tensor) -> list[int]:
    """Return the dimensions from the widest stride to the narrowest; of equal ones, those of one element last."""
    sizes, strides = tensor.shape, tensor.stride()
    return sorted(range(tensor.ndim), key=lambda index: (-strides[index], sizes[index] == 1, index))


def _with_order(tensor: Tensor, order: list[int]) -> Tensor:
    widest_first = torch.empty([tensor.shape[index] for index in order], dtype=tensor.dtype, device=tensor.device)
    return widest_first.permute([order.index(index) for index in range(tensor.ndim)]).copy_(tensor)
