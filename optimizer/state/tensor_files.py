"""Safetensors files, written from the memory of their tensors while the disk works.

The library's own function writes the file first. Its checksum needs another pass over it, and the disk begins when that
is done. Here one pass over small pieces copies, digests and writes them, and starts the disk.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .strides import with_stride_orders

_ROOM_BYTES = 1 << 20
"""The size of a piece, which stays in a core's cache from the copy to the write."""
_START_BYTES = 8 << 20
"""How much is written before the disk is asked to start with it."""
_START = 2
"""SYNC_FILE_RANGE_WRITE: start to write, without waiting."""

Digest = Callable[[memoryview], object]
"""Takes the next bytes of a file, like `update` of a hash object."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    digest: Digest = lambda _: None,
) -> int:
    """Write tensors and their strides to the new safetensors file `path`, and wait until it is on the disk.

    Args:
        path: The file.
        tensors: On any device. They are made contiguous one at a time.
        metadata: Texts by name, for the file's header.
        digest: Called with each piece of the file.

    Returns:
        The size of the file in bytes.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    plain = {name: tensors[name].detach() for name in _file_order(tensors)}
    header = _header(plain, with_stride_orders(tensors, metadata))
    with path.open("xb", buffering=0) as file:
        writer = _PieceWriter(file, digest, any(tensor.is_cuda for tensor in plain.values()))
        try:
            writer.write(torch.frombuffer(header, dtype=torch.uint8))
            for tensor in plain.values():
                writer.write(as_bytes(tensor))
            return writer.finish()
        except OSError as error:
            error.filename = error.filename or str(path)
            raise


def as_bytes(tensor: Tensor) -> Tensor:
    """Return the elements of a tensor, one after another, as a tensor of bytes; without a copy if it is contiguous."""
    whole = tensor.resolve_conj().resolve_neg().contiguous()
    # Not a view: a single element may have any stride.
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


class _PieceWriter:
    """Writes tensors of bytes to a file, in pieces.

    What is digested is what is written, even if the tensors change meanwhile.

    Args:
        file: The file, without a buffer.
        digest: Called with each piece.
        pinned: Whether tensors come from a CUDA device, which copies faster into pinned memory.
    """

    def __init__(self, file: BinaryIO, digest: Digest, pinned: bool) -> None:
        self._file, self._digest = file, digest
        self._room = torch.empty(_ROOM_BYTES, dtype=torch.uint8, pin_memory=pinned)
        self._memory = self._room.numpy()
        self._filled = self._written = self._started = 0

    def write(self, data: Tensor) -> None:
        """Write bytes, the last of them perhaps later."""
        source, start = data.numpy() if data.device.type == "cpu" else data, 0
        while start < len(source):
            part = source[start : start + _ROOM_BYTES - self._filled]
            stop = self._filled + len(part)
            if isinstance(part, Tensor):
                self._room[self._filled : stop].copy_(part)
            else:
                np.copyto(self._memory[self._filled : stop], part)  # on this thread: torch would take others too
            start, self._filled = start + len(part), stop
            if stop == _ROOM_BYTES:
                self._write_room()

    def finish(self) -> int:
        """Write the rest, wait until all is on the disk, and return the size of the file."""
        self._write_room()
        os.fsync(self._file.fileno())
        return self._written

    def _write_room(self) -> None:
        piece = self._memory.data[: self._filled]
        self._digest(piece)
        self._written += self._filled
        self._filled = 0
        while piece:
            piece = piece[self._file.write(piece) :]
        if self._written - self._started >= _START_BYTES:
            _start_writing(self._file.fileno(), self._started)
            self._started = self._written


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytearray:
    """Return the first bytes of the file that holds these tensors in this order."""
    names = _dtype_names(frozenset(tensor.dtype for tensor in tensors.values()))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        dtype, packed = names[tensor.dtype]
        shape = list(tensor.shape)
        if packed > 1:
            shape[-1] *= packed
        stop = start + tensor.numel() * tensor.itemsize
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text)


def _file_order(tensors: Mapping[str, Tensor]) -> Iterable[str]:
    """Return the names in the order of the library: by type, so that all are aligned, and then by name."""
    order = list(_dtype_names(frozenset(tensor.dtype for tensor in tensors.values())))
    return sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))


@lru_cache
def _dtype_names(dtypes: frozenset[torch.dtype]) -> dict[torch.dtype, tuple[str, int]]:
    """Return the library's name of each type, and how many values are in an element, in the order of its files."""
    from safetensors.torch import save

    names = {str(index): dtype for index, dtype in enumerate(dtypes)}
    file = save({name: torch.empty(1, dtype=dtype) for name, dtype in names.items()})
    entries = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return {names[name]: (entry["dtype"], entry["shape"][0]) for name, entry in entries.items()}


@lru_cache
def _system_call() -> Callable[..., int] | None:
    """Return Linux's sync_file_range, which Python has no name for."""
    found = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found


def _start_writing(descriptor: int, start: int) -> None:
    """Ask the system to begin to write a file to the disk, from byte `start` on. An error shows in fsync."""
    if (call := _system_call()) is not None:
        call(descriptor, start, 0, _START)
