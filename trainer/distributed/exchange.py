"""Plain values on their way between the processes of a run."""

import json
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Send = Callable[[Tensor], tuple[list[Tensor], dist.Work]]
"""Begins to send a message; returns the tensors that the messages of the processes come into, and the work."""

ROOM = 2040
"""Bytes that the first message with a plain value has for it; most values need less."""
_HEAD_BYTES = 8
"""Bytes at its beginning that hold the length of the value."""


class Exchange:
    """An exchange of values that JSON can hold, which keeps each number as it is. Making it sends the value.

    The first message has the same length everywhere, and begins with the length of the value. A second one is sent only
    if a value does not fit into the first: when the values are read, which all processes then do in the same order.

    Args:
        value: That of this process.
        send: Sends a message.
        room: Bytes that the first message has for the value, the same in all processes.
    """

    def __init__(self, value: Any, send: Send, room: int = ROOM) -> None:
        self._data, self._send, self._room = json.dumps(value).encode(), send, room
        head = len(self._data).to_bytes(_HEAD_BYTES, "little")
        self._tensors, self._work = send(_message(head + self._data, _HEAD_BYTES + room))

    @property
    def has_arrived(self) -> bool:
        """Whether the values are there, so that this process can read them though the others do not."""
        return self._work.is_completed() and self.arrives_within(0.0)

    @property
    def needs_all(self) -> bool:
        """Whether a value is known to need a second message, so that all processes must read them."""
        return self._work.is_completed() and not self.arrives_within(0.0)

    def arrives_within(self, seconds: float) -> bool:
        """Wait for the values; return whether this process can read them. Another process may be gone."""
        try:
            self._work.wait(timedelta(seconds=seconds))
        except RuntimeError:
            return False
        return self.longest <= self._room

    def read(self) -> list[Any]:
        """Wait for the values of the processes, and return them by rank."""
        self._work.wait()
        rows = [row[_HEAD_BYTES:] for row in self._rows]
        if self.longest > self._room:
            tensors, work = self._send(_message(self._data, self.longest))
            work.wait()
            rows = _bytes(tensors)
        return [json.loads(row[:length]) for row, length in zip(rows, self._lengths, strict=True)]

    @property
    def longest(self) -> int:
        """Bytes of the longest value, once they are there."""
        return max(self._lengths)

    @cached_property
    def _rows(self) -> list[bytes]:
        return _bytes(self._tensors)

    @cached_property
    def _lengths(self) -> list[int]:
        return [int.from_bytes(row[:_HEAD_BYTES], "little") for row in self._rows]


def _message(data: bytes, length: int) -> Tensor:
    """Return the first `length` bytes of `data`, with zeros behind it if it is shorter."""
    return torch.frombuffer(bytearray(data[:length].ljust(length, b"\0")), dtype=torch.uint8)


def _bytes(tensors: list[Tensor]) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in tensors]
