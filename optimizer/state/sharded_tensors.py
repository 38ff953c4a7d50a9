"""Tensors that are spread over processes (DTensors): made whole in host memory, and whole ones cut into shards.

`torch.distributed.tensor` takes a second to import, so that it is imported where there is such a tensor.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from ..config.messages import shown
from ..transforms.memory_layout import is_dense
from ..transforms.shards import is_sharded, local_tensor
from .tensor_files import as_bytes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement

_BUCKET_BYTES = 32 << 20
"""The size of the whole tensors whose pieces are sent together."""

Box = tuple[tuple[int, int], ...]
"""The place of a piece in the whole tensor: the first index and the one after the last, in each dimension."""


def own_rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def gathered(tensors: Mapping[str, Tensor], rank: int = 0) -> dict[str, Tensor]:
    """Return sharded tensors whole and in host memory, on one rank.

    All ranks of the tensors' meshes must call it with the same names in the same order. The ranks send their pieces one
    after another, those of small tensors together, so that no device holds a large tensor whole.

    Args:
        tensors: sharded ones, and others, which are returned as they are.
        rank: the rank, among all processes, that receives them.

    Returns:
        On `rank` all tensors, in the same order; on the other ranks none.

    Raises:
        ValueError: A tensor is a partial sum or placed in another way that has no pieces, or `rank` is not in its mesh.
    """
    sharded = {name: tensor for name, tensor in tensors.items() if is_sharded(tensor)}
    for name, tensor in sharded.items():
        problem = unsupported_placement(tensor)
        if own_rank() == rank not in tensor.device_mesh.mesh:
            problem = f"rank {rank} is not in its mesh, {tensor.device_mesh}"
        if problem:
            raise ValueError(f"{shown(name)}: {problem}")
    whole: dict[str, Tensor] = {}
    for bucket in _buckets({name: tensor for name, tensor in sharded.items() if rank in tensor.device_mesh.mesh}):
        whole |= _gather(bucket, rank)
    return {name: whole.get(name, tensor) for name, tensor in tensors.items()} if own_rank() == rank else {}


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
        part.copy_(whole.detach()[_slices(_box(like.shape, like.placements, like.device_mesh, coordinate))])
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


def _buckets(tensors: Mapping[str, "DTensor"]) -> Iterator[dict[str, "DTensor"]]:
    """Yield the tensors in groups on one device, of at most _BUCKET_BYTES together or of one tensor."""
    bucket: dict[str, DTensor] = {}
    room, device = 0, None
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.itemsize
        if bucket and (size > room or local_tensor(tensor).device != device):
            yield bucket
            bucket = {}
        if not bucket:
            room, device = _BUCKET_BYTES, local_tensor(tensor).device
        bucket[name] = tensor
        room -= size
    if bucket:
        yield bucket


def _gather(bucket: Mapping[str, "DTensor"], rank: int) -> dict[str, Tensor]:
    """Return the tensors of a bucket whole on `rank`, and {} elsewhere."""
    own = own_rank()
    whole = {name: _host_tensor(tensor) for name, tensor in bucket.items()} if own == rank else {}
    pieces: dict[int, list[tuple[str, Box]]] = {}
    for name, tensor in bucket.items():
        for box, holders in _holders(tensor.shape, tensor.placements, tensor.device_mesh).items():
            if all(start < stop for start, stop in box):
                pieces.setdefault(rank if rank in holders else holders[0], []).append((name, box))
    for source, of_source in pieces.items():
        locals_ = [local_tensor(bucket[name]) for name, _ in of_source]
        if own == rank:
            found = locals_ if source == rank else _received(source, [box for _, box in of_source], locals_)
            for (name, box), piece in zip(of_source, found, strict=True):
                whole[name][_slices(box)] = piece
        elif own == source:
            data = [as_bytes(local) for local in locals_]
            _exchange(distributed.isend, data[0] if len(data) == 1 else torch.cat(data), rank)
    return whole


@lru_cache(maxsize=1024)
def _holders(shape: torch.Size, placements: tuple["Placement", ...], mesh: "DeviceMesh") -> dict[Box, list[int]]:
    """Return the ranks that have each piece of a tensor."""
    holders: dict[Box, list[int]] = {}
    for rank, coordinate in zip(mesh.mesh.flatten().tolist(), itertools.product(*map(range, mesh.shape)), strict=True):
        holders.setdefault(_box(shape, placements, mesh, coordinate), []).append(rank)
    return holders


def _box(shape: torch.Size, placements: tuple["Placement", ...], mesh: "DeviceMesh", coordinate: Sequence[int]) -> Box:
    """Return the place of the piece that the process at `coordinate` of the mesh has."""
    from torch.distributed.tensor import Shard

    box = [(0, size) for size in shape]
    for place, index, count in zip(placements, coordinate, mesh.shape, strict=True):
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


def _received(source: int, boxes: list[Box], likes: list[Tensor]) -> list[Tensor]:
    """Return pieces that `source` sends together, of the types of `likes`."""
    shapes = [[stop - start for start, stop in box] for box in boxes]
    sizes = [math.prod(shape) * like.itemsize for shape, like in zip(shapes, likes, strict=True)]
    data = torch.empty(sum(sizes), dtype=torch.uint8, device=likes[0].device)
    _exchange(distributed.irecv, data, source)
    parts = zip(torch.split(data, sizes), shapes, likes, strict=True)
    return [_aligned(part, like.itemsize).view(like.dtype).view(shape) for part, shape, like in parts]


def _aligned(data: Tensor, itemsize: int) -> Tensor:
    """Return bytes that can be viewed as elements of this size."""
    return data.clone() if data.storage_offset() % itemsize else data


def _exchange(operation: object, data: Tensor, peer: int) -> None:
    # A batch uses the communicator that NCCL has for all ranks; single sends would make one more for each pair.
    for work in distributed.batch_isend_irecv([distributed.P2POp(operation, data, peer)]):  # type: ignore[arg-type]
        work.wait()
