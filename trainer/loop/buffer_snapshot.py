"""Buffers as they were before an update."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimizer.state import unreadable_reason

from .running_statistics import statistics_of

_Buffers = dict[str, Tensor | None]


@dataclass
class _Kept:
    """A buffer at the last `take`: the tensor, how often it had been written, and its values."""

    tensor: Tensor
    version: int
    copy: Tensor

    def is_as(self, tensor: Tensor | None) -> bool:
        return tensor is self.tensor and self.tensor._version == self.version


class BufferSnapshot:
    """A copy of the buffers of `components`, to restore after an update that is left out or made again.

    A forward pass writes them: one batch with a NaN would leave NaNs in running statistics for good. Most buffers never
    change; these are copied once. PyTorch counts the writes of a tensor, except those of `batch_norm`: its layers'
    statistics are therefore copied each time, and those that a custom layer hands to the function are not followed.
    """

    def __init__(self, components: Iterable[nn.Module]) -> None:
        modules = list(components)
        self._statistics = [buffer for each in modules for _, buffer in statistics_of(each)]
        """Copied each time."""
        self._copies: list[Tensor] = []
        known = set(map(id, self._statistics))
        self._places: list[tuple[_Buffers, str]] = [
            (module._buffers, name)
            for each in modules
            for module in each.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and id(buffer) not in known and _is_followed(buffer)
        ]
        """The other buffers; a module may put other tensors there."""
        self._kept: dict[int, _Kept] = {}

    def take(self) -> None:
        """Copy them as they are."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._statistics)
        else:
            self._copies = [buffer.clone() for buffer in self._statistics]
        for index, (buffers, name) in enumerate(self._places):
            buffer, kept = buffers.get(name), self._kept.get(index)
            if buffer is not None and (kept is None or not kept.is_as(buffer)):
                self._kept[index] = _Kept(buffer, buffer._version, buffer.detach().clone())

    def restore(self) -> None:
        """Restore them as they were at the last `take`; nothing happens without one."""
        # As the layers write them: a graph of this update whose backward pass is still to come stays valid.
        if self._copies:
            torch._foreach_copy_([buffer.data for buffer in self._statistics], self._copies)
        for index, kept in self._kept.items():
            buffers, name = self._places[index]
            if not kept.is_as(buffers.get(name)):
                kept.tensor.data.copy_(kept.copy)
                buffers[name] = kept.tensor


def _is_followed(buffer: Tensor) -> bool:
    """Return whether writes of `buffer` are counted, and its values can be copied."""
    return not buffer.is_inference() and unreadable_reason(buffer) is None
