"""The place of a process among those that train one run, and the values that they exchange."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from ..errors import ConfigError
from ..runtime.devices import device_named
from .environment import Environment
from .exchange import ROOM, Exchange
from .failures import Failures

Group = dist.ProcessGroup
"""Processes that exchange tensors."""


@dataclass(frozen=True)
class Place:
    """The number of a process among those that train a run, and its share of each batch."""

    rank: int = 0
    """The number of this process, from 0 to `size - 1`."""
    size: int = 1
    """How many processes train the run."""

    def share(self, samples: int) -> range:
        """Return the positions of the samples that count in this process, of a batch of `samples`; perhaps none."""
        return range(samples * self.rank // self.size, samples * (self.rank + 1) // self.size)

    def taken(self, samples: int) -> range:
        """Return the positions of the samples that this process computes: its share, or the first one if it has none.

        A mean over no samples would be NaN. The first sample then has the weight 0.
        """
        return self.share(samples) or range(1)


@dataclass
class _Computed:
    """The batch that all processes compute together now, if they do."""

    counts: bool | None = None
    """Whether the samples of this process count; None: each process computes on its own."""


_ON_ITS_OWN = nullcontext()


@dataclass(frozen=True)
class World(Place):
    """The processes that train a run, as one of them sees them. The default is the only process of a run.

    Whatever may happen once a run (printing, writing files, taking the lock) asks `is_main` first. All processes call
    the methods that exchange values, in the same order; the only process of a run gets its own values back.
    """

    local_rank: int = 0
    """The number of this process among those on its machine, from 0."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device that this process trains on."""
    control: Group | None = None
    """The group for plain values, in the memory of the CPU; None before `launch.joined`, and for a single process."""
    gradients: Group | None = None
    """The group for gradients, on the device of the run, and for the messages of forward and backward passes."""
    averages: Group | None = None
    """The group for averages of gradients, which are sent during backward passes: one like `gradients`."""
    saves: Group | None = None
    """The group for plain values of the thread that writes checkpoints: one like `control`."""
    reports: Group | None = None
    """The group for the values of `gather_later`: one like `control`."""
    failures: Failures | None = None
    """Whether other processes have failed; None if there are no others."""
    _computed: _Computed = field(default_factory=_Computed, repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Return the place that torchrun, or another launcher, gives this process by environment variables.

        Raises:
            ConfigError: A variable is missing or wrong.
        """
        place = Environment.read()
        return cls(place.rank, place.size, place.local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, and writes the run's files."""
        return self.rank == 0

    @cached_property  # each update asks for it several times
    def is_alone(self) -> bool:
        """Whether no other process trains the run."""
        return self.size == 1

    def console(self, console: Console) -> Console:
        """Return `console` for the main process, and one that prints nothing for the others."""
        return console if self.is_main else Console(quiet=True)

    def on(self, device: str) -> Self:
        """Return this place with the device that `train.device` names; of several processes each has its own.

        Raises:
            ConfigError: This machine has no such device.
        """
        found = device_named(device, "train.device")
        if found.type == "cuda" and not self.is_alone:
            if found.index is not None:
                raise ConfigError(
                    f"train.device: must be cuda or auto for {self.size} processes, each of which takes another device;"
                    f" got {device}"
                )
            found = device_named(f"cuda:{self.local_rank}", "train.device")
        return replace(self, device=found)

    @property
    def counts(self) -> bool | None:
        """Whether the samples that this process computes now count; None outside of `computing`."""
        return self._computed.counts

    def computing(self, samples: int) -> AbstractContextManager[None]:
        """Return a context in which the processes compute a batch of `samples` together, each those that it takes.

        Statistics over a batch are over the samples of all processes there, so that all of them run the same layers.
        """
        return _ON_ITS_OWN if self.is_alone else self._computing(bool(self.share(samples)))

    @contextmanager
    def _computing(self, counts: bool) -> Iterator[None]:
        before, self._computed.counts = self._computed.counts, counts
        try:
            yield
        finally:
            self._computed.counts = before

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copy of a layer is in the same world

    @property
    def name(self) -> str:
        """The name of this process in a message."""
        return f"rank {self.rank} ({socket.gethostname()})"

    @property
    def place(self) -> Place:
        """The place alone, which another process can be sent."""
        return Place(self.rank, self.size)

    @property
    def saving(self) -> Self:
        """This place for the thread that writes checkpoints: it exchanges values while the main thread does so too."""
        return replace(self, control=self.saves)

    def alone(self) -> Self:
        """Return the world of this process without the others, of which one may be gone."""
        alone = replace(self, rank=0, size=1, failures=None)
        return replace(alone, control=None, gradients=None, averages=None, saves=None, reports=None)

    def seed(self, seed: int, update: int) -> int:
        """Return the seed for the random numbers that this process draws in an update of a run with `seed`."""
        words = np.random.SeedSequence((seed, update, self.rank)).generate_state(1, np.uint64)
        return int(words[0])

    def evaluation_seed(self, seed: int) -> int:
        """Return the seed for the random numbers that this process draws in an evaluation; the main one has `seed`."""
        words = np.random.SeedSequence(seed, spawn_key=(self.rank,)).generate_state(1, np.uint64)
        return seed if self.is_main else int(words[0])

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in a process."""
        return bool(self.largest([int(flag)])[0])

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number over the processes."""
        if self.control is None:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return list(map(int, tensor.tolist()))

    def from_main(self, value: Any) -> Any:
        """Return in every process the value of the main one, which JSON can hold; those of others are ignored."""
        if self.control is None:
            return value
        return Exchange(value if self.is_main else None, self._broadcast).read()[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, which JSON can hold, by rank."""
        return [value] if self.control is None else Exchange(value, partial(self._all_gather, self.control)).read()

    def gather_later(self, value: Any, room: int = ROOM) -> Exchange:
        """Begin to gather as `gather` does, without a wait, in a group for such exchanges. room: as for `Exchange`."""
        return Exchange(value, partial(self._all_gather, self.reports), room)

    def _broadcast(self, message: Tensor) -> tuple[list[Tensor], dist.Work]:
        return [message], dist.broadcast(message, 0, group=self.control, async_op=True)

    def _all_gather(self, group: Group | None, message: Tensor) -> tuple[list[Tensor], dist.Work]:
        rows = [torch.empty_like(message) for _ in range(self.size)]
        return rows, dist.all_gather(rows, message, group=group, async_op=True)
