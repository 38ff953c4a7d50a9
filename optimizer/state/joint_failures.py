"""The failure of one process, raised by all that work together."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from ..transforms.shards import is_sharded
from .sharded_tensors import own_rank

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_TEXT_BYTES = 2000
"""The length of a message that is sent; a longer one is cut."""


def largest_mesh(tensors: Iterable[Tensor]) -> "DeviceMesh | None":
    """Return the mesh of most processes that one of the tensors is spread over; None if none is."""
    meshes = [tensor.device_mesh for tensor in tensors if is_sharded(tensor)]
    return max(meshes, key=lambda mesh: mesh.mesh.numel(), default=None)


def first_rank(mesh: "DeviceMesh | None") -> int:
    """Return the first rank of a mesh; without a mesh the own one."""
    return own_rank() if mesh is None else int(mesh.mesh.flatten()[0])


@contextmanager
def failing_together(mesh: "DeviceMesh | None") -> Iterator[None]:
    """Let all processes of a mesh end the body together: where it fails in one of them, it fails in all.

    Args:
        mesh: all of its processes must enter the body; None: this process is alone.

    Raises:
        OSError: The body raised one in another process. The message begins with the rank.
        ValueError: The body raised another exception in another process.
    """
    try:
        yield
    except BaseException as error:
        _exchange(mesh, error)
        raise
    if (other := _exchange(mesh, None)) is not None:
        raise other


def _exchange(mesh: "DeviceMesh | None", error: BaseException | None) -> Exception | None:
    """Return the failure of another process of the mesh, that of the highest rank; None if this one has that rank."""
    if mesh is None:
        return None
    code = torch.zeros(1, dtype=torch.int64, device=mesh.device_type)
    if error is not None:
        code += 2 * own_rank() + 2 + isinstance(error, OSError)
    own = int(code)
    highest = int(_maximum(code, mesh))
    if not highest:
        return None
    text = torch.zeros(_TEXT_BYTES, dtype=torch.uint8, device=mesh.device_type)
    if own == highest:
        message = f"{type(error).__name__}: {error}".encode()[:_TEXT_BYTES]
        text[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    words = bytes(_maximum(text, mesh).tolist()).rstrip(b"\0").decode(errors="ignore")
    kind = OSError if highest % 2 else ValueError
    return None if own == highest else kind(f"rank {highest // 2 - 1}: {words}")


def _maximum(values: Tensor, mesh: "DeviceMesh") -> Tensor:
    """Return the maximum over all processes of the mesh, in place: that of one dimension after the other."""
    for group in mesh.get_all_groups():
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group)
    return values
