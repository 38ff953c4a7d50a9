"""The joint L2 norm of gradients of any kind."""

from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import add, le, mul
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.nn.utils import get_total_norm

from .float64_step import HALVES
from .shards import is_sharded, norm_over_shards
from .step_hooks import no_autograd

DTYPES = (torch.float32, torch.float64, *HALVES)
"""The types of gradients whose norms kernels take."""


@no_autograd
def total_norm(gradients: Iterable[Tensor], parameters: Iterable[Tensor] = ()) -> Tensor:
    """Return the joint L2 norm of `gradients`.

    Args:
        gradients: dense, sparse or sharded (DTensor), of any types, devices and meshes. A sparse one counts as the
            dense one that it stands for: several values of an element are added up first. Of sharded ones the norm of
            the whole counts: all processes call this with gradients of the same parameters, which sends one all_reduce.
            A plain one is equal on all processes.
        parameters: those of the gradients, also without one here, if processes may lack different ones: then all send
            the same.

    Returns:
        A plain scalar. Nothing waits for a device.
    """
    gradients, parameters = list(gradients), list(parameters)
    if not parameters and are_plain(gradients):  # torch sorts by device and type, which costs most for small parameters
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    like = [*parameters, *dense]
    if any(map(is_sharded, like)):
        return norm_over_shards(dense, like)
    return get_total_norm(dense) if dense else torch.zeros(())


def quick_norms(optimizers: Sequence[object], gradients: Sequence[Sequence[Tensor]]) -> list[Tensor | None]:
    """Return the joint L2 norms of the gradients of optimizers by their kernels, those of one type in one pass.

    A norm is a scalar; None: `total_norm` is as fast. The two may differ in the last bits of a gradient's type. Which
    one counts depends on the kernel and the kind of gradients alone, so that all who need the norm of an update may
    share it.

    Args:
        optimizers: any ones.
        gradients: for each optimizer those of its parameters, in any order.
    """
    found: list[Tensor | None] = [None] * len(optimizers)
    passes: dict[tuple[Any, torch.dtype], list[int]] = {}
    for at, (optimizer, own) in enumerate(zip(optimizers, gradients, strict=True)):
        norms = getattr(getattr(optimizer, "kernel", None), "norms", None)
        if norms is not None and are_plain(own) and _are_in_memory(own):
            passes.setdefault((norms, own[0].dtype), []).append(at)
    for (norms, dtype), places in passes.items():
        numbers: list[float] | None = norms([gradients[at] for at in places])
        for at, number in zip(places, numbers or (), strict=numbers is not None):
            found[at] = torch.tensor(number, dtype=dtype, device="cpu")
    return found


def are_plain(gradients: Sequence[Tensor]) -> bool:
    """Return whether there are gradients, and all are dense tensors of one type on the CPU or on one CUDA device."""
    if not gradients or not (gradients[0].is_cpu or gradients[0].is_cuda):
        return False
    dtype, device = gradients[0].dtype, gradients[0].device
    return all(type(g) is Tensor and g.dtype is dtype and not g.is_sparse and g.device == device for g in gradients)


def _are_in_memory(gradients: Sequence[Tensor]) -> bool:
    """Return whether plain gradients are on the CPU, of a type that kernels have, with a place for every element."""
    if not gradients[0].is_cpu or gradients[0].dtype not in DTYPES:
        return False
    sizes = list(map(Tensor.numel, gradients))
    if 0 in compress(map(Tensor.data_ptr, gradients), sizes):  # the address of zeros without memory
        return False
    there = map(UntypedStorage.nbytes, map(Tensor.untyped_storage, gradients))
    ends = map(add, map(Tensor.storage_offset, gradients), sizes)
    return all(map(le, map(mul, ends, repeat(gradients[0].element_size())), there))
