"""Gradients packed into flat buffers, each of which the processes add up in one message."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError

ALIGNMENT_BYTES = 64
"""Each gradient begins at a multiple of it: kernels read aligned memory faster."""

Kind = tuple[torch.dtype, torch.device]
"""The type and the device of the values in a bucket."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Where the gradients of some parameters lie in a flat buffer, behind numbers that travel with them.

    The buffer begins with `head` numbers of the caller's, then has one a parameter: 0 if no process has its gradient.
    """

    kind: Kind
    parameters: Sequence[nn.Parameter]
    head: int = 0
    least: int = 0
    """The buffer has at least so many numbers."""
    length: int = field(init=False)
    places: list[tuple[torch.Size, tuple[int, ...], int]] = field(init=False)
    """The shape, the strides and the offset of each gradient. Strides are those of a parameter without gaps."""

    def __post_init__(self) -> None:
        places, end = [], self.head + len(self.parameters)
        step = max(1, ALIGNMENT_BYTES // self.kind[0].itemsize)
        for parameter in self.parameters:
            start = -(-end // step) * step
            places.append((parameter.shape, torch.empty_like(parameter, device="meta").stride(), start))
            end = start + parameter.numel()
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "length", max(self.least, end))


class Message:
    """A bucket's buffer on its way through the processes. Gradients become views of it, and are not copied back.

    Args:
        bucket: Its gradients, and where they are.
        head: The numbers at its beginning.
        names: Of the parameters, for an error's message.

    Raises:
        ConfigError: A gradient is sparse.
    """

    @torch.no_grad()
    def __init__(self, bucket: Bucket, head: Tensor | None, names: Mapping[nn.Parameter, str]) -> None:
        self.bucket = bucket
        self.buffer = torch.empty(bucket.length, dtype=bucket.kind[0], device=bucket.kind[1])
        self._views = [self.buffer.as_strided(*place) for place in bucket.places]
        self._missing = [index for index, each in enumerate(bucket.parameters) if each.grad is None]
        self._work: dist.Work | None = None
        if head is not None:
            self.buffer[: bucket.head] = head
        if bucket.parameters:
            self._pack(names)

    @property
    def head(self) -> Tensor:
        """The numbers at the beginning of the buffer."""
        return self.buffer[: self.bucket.head]

    @property
    def has_arrived(self) -> bool:
        """Whether the sum of all processes is there."""
        return self._work is not None and self._work.is_completed()

    def send(self, group: dist.ProcessGroup) -> None:
        """Begin to add up the buffers of all processes."""
        self._work = dist.all_reduce(self.buffer, group=group, async_op=True)

    def wait(self) -> None:
        """Wait until the sum of all processes is there."""
        assert self._work is not None  # it was sent
        self._work.wait()

    def unpack(self, processes: int) -> None:
        """Make means of the sums, and give each parameter its gradient, or None if no process has one."""
        if self._missing:
            found = self._flags().tolist()
            for index in self._missing:
                self.bucket.parameters[index].grad = self._views[index] if found[index] else None
        self.buffer.div_(processes)

    def _pack(self, names: Mapping[nn.Parameter, str]) -> None:
        gradients, views = [], []
        for parameter, view in zip(self.bucket.parameters, self._views, strict=True):
            gradient = parameter.grad
            if gradient is None:
                view.zero_()
                continue
            if gradient.layout != torch.strided:
                raise ConfigError(
                    f"{names[parameter]}: its gradient is sparse, and several processes average dense ones only. Make"
                    " it dense (sparse=False of an embedding), or train with one process."
                )
            gradients.append(gradient)
            views.append(view)
            parameter.grad = view
        if gradients:
            torch._foreach_copy_(views, gradients)
        self._flags().fill_(1)
        if self._missing:
            self._flags()[self._missing] = 0

    def _flags(self) -> Tensor:
        return self.buffer[self.bucket.head : self.bucket.head + len(self._views)]


def buckets_of(parameters: Iterable[nn.Parameter], size_bytes: int, head: int = 0) -> list[Bucket]:
    """Return buckets of at most `size_bytes`, or of one parameter, in the order of `parameters` within each kind."""
    filled: dict[Kind, list[list[nn.Parameter]]] = {}
    sizes: dict[Kind, int] = {}
    for parameter in parameters:
        kind, size = (parameter.dtype, parameter.device), parameter.numel() * parameter.element_size()
        if kind not in filled or sizes[kind] + size > size_bytes:
            filled.setdefault(kind, []).append([])
            sizes[kind] = 0
        filled[kind][-1].append(parameter)
        sizes[kind] += size
    return [Bucket(kind, parts, head) for kind, lists in filled.items() for parts in lists]
