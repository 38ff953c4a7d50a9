"""Tensors that are spread over processes (DTensors): made whole in host memory, and whole ones cut into shards.

`torch.distributed.tensor` takes a second to import, so that it is imported where there is such a tensor.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from ..config.messages import shown
from ..transforms.memory_layout import is_dense
from ..transforms.shards import is_sharded, local_tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Box = tuple[tuple[int, int], ...]
"""The place of a piece in the whole tensor: the first index and the one after the last, in each dimension."""


def own_rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def gathered(tensors: Mapping[str, Tensor], rank: int = 0) -> dict[str, Tensor]:
    """Return sharded tensors whole and in host memory, on one rank.

    All ranks of the tensors' meshes must call it with the same names in the same order. The pieces of a tensor move one
    after another, so that no device holds more than one piece of another rank.

    Args:
        tensors: sharded ones, and others, which are returned as they are.
        rank: the rank, among all processes, that receives them.

    Returns:
        On `rank` all tensors; on the other ranks none.

    Raises:
        ValueError: A tensor is a partial sum or placed in another way that has no pieces, or `rank` is not in its mesh.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not is_sharded(tensor):
            whole[name] = tensor
        elif problem := unsupported_placement(tensor):
            raise ValueError(f"{shown(name)}: {problem}")
        elif rank in tensor.device_mesh.mesh:
            whole |= _gather(name, tensor, rank)
        elif own_rank() == rank:
            raise ValueError(f"{shown(name)}: rank {rank} is not in its mesh, {tensor.device_mesh}")
    return whole if own_rank() == rank else {}


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, without communication.

    Args:
        whole: equal on all ranks; in host memory, or on any device.
        like: a tensor of the same shape, whose mesh, placements, device and strides the result takes.

    Returns:
        A sharded tensor of the type of `whole`; `whole` itself if `like` is not sharded.

    Raises:
        ValueError: The shapes differ, or `like` is a partial sum or placed in another way that has no pieces.
    """
    if not is_sharded(like):
        return whole
    if whole.shape != like.shape:
        raise ValueError(f"the whole tensor has shape {list(whole.shape)}, and the sharded one {list(like.shape)}")
    if problem := unsupported_placement(like):
        raise ValueError(problem)
    from torch.distributed.tensor import DTensor

    part = torch.empty_like(local_tensor(like), dtype=whole.dtype)
    coordinate = like.device_mesh.get_coordinate()
    if coordinate is not None:
        part.copy_(whole.detach()[_slices(_box(like, coordinate))])
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def unsupported_placement(tensor: Tensor) -> str | None:
    """Return why a sharded tensor has no pieces that make the whole; None if it has, or is not sharded."""
    if not is_sharded(tensor):
        return None
    from torch.distributed.tensor import Replicate, Shard

    for place in tensor.placements:
        if type(place) not in (Replicate, Shard):
            return f"it is placed as {place!r}, where Shard or Replicate is expected"
    return None


def _gather(name: str, tensor: "DTensor", rank: int) -> dict[str, Tensor]:
    """Return {name: the whole tensor} on `rank`, and {} elsewhere."""
    own, local = own_rank(), local_tensor(tensor)
    whole = _host_tensor(tensor) if own == rank else None
    for box, holders in _holders(tensor).items():
        if any(start == stop for start, stop in box):
            continue
        source = rank if rank in holders else holders[0]
        if whole is not None:
            sizes = [stop - start for start, stop in box]
            whole[_slices(box)] = local if source == rank else _received(source, sizes, local)
        elif own == source:
            _exchange(distributed.isend, _as_bytes(local), rank)
    return {} if whole is None else {name: whole}


def _holders(tensor: "DTensor") -> dict[Box, list[int]]:
    """Return the ranks that have each piece of a tensor."""
    mesh = tensor.device_mesh
    holders: dict[Box, list[int]] = {}
    for rank, coordinate in zip(mesh.mesh.flatten().tolist(), itertools.product(*map(range, mesh.shape)), strict=True):
        holders.setdefault(_box(tensor, coordinate), []).append(rank)
    return holders


def _box(tensor: "DTensor", coordinate: Sequence[int]) -> Box:
    """Return the place of the piece that the process at `coordinate` of the mesh has."""
    from torch.distributed.tensor import Shard

    box = [(0, size) for size in tensor.shape]
    for place, index, count in zip(tensor.placements, coordinate, tensor.device_mesh.shape, strict=True):
        if isinstance(
            place, Shard
        ):  # the first pieces are of equal length, the last one is shorter, those after it empty
            start, stop = box[place.dim]
            length = -(-(stop - start) // count)
            box[place.dim] = min(start + index * length, stop), min(start + (index + 1) * length, stop)
    return tuple(box)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _host_tensor(tensor: "DTensor") -> Tensor:
    """Return a new tensor in host memory with shape, strides and type of a sharded one."""
    whole = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return whole if is_dense(whole) else torch.empty(tensor.shape, dtype=tensor.dtype)


def _as_bytes(tensor: Tensor) -> Tensor:
    """Return the elements of a tensor as bytes, which every backend can send."""
    return tensor.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)


def _received(source: int, sizes: list[int], like: Tensor) -> Tensor:
    """Return a piece that `source` sends, on the device and of the type of `like`."""
    piece = torch.empty(sizes, dtype=like.dtype, device=like.device)
    _exchange(distributed.irecv, _as_bytes(piece), source)
    return piece


def _exchange(operation: object, data: Tensor, peer: int) -> None:
    # A batch uses the communicator that NCCL has for all ranks; single sends would make one more for each pair.
    for work in distributed.batch_isend_irecv([distributed.P2POp(operation, data, peer)]):  # type: ignore[arg-type]
        work.wait()
