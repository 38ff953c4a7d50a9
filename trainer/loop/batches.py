"""Training batches: their order, and worker processes that make them ahead."""

import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_start_method
from pickle import PickleError
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, UserCodeError, raised
from ..interfaces.dataset import Batch, Split
from ..runtime.rng import seed_all
from ..runtime.signals import SIGNALS
from ..runtime.streams import unfailing

_GUARD = (
    ' Under this start method a script needs `if __name__ == "__main__":` around what it runs: each worker reads the'
    " script again."
)


class ShuffledBatches:
    """Batches of a split, reshuffled every epoch, `accumulate` of them an update. The last batch of an epoch is short,
    or left out; an epoch's last update has the batches that are left.

    The order is a pure function of the seed and the update count, so that a run is taken up in the
    middle of an epoch without reading what came before. batch_size: samples a batch. workers: processes
    that make the batches ahead, from the first that is asked for until `close`; 0: none. pin_memory:
    whether the batches are in pinned memory. Raises ConfigError if the split is empty.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        accumulate: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if len(split) == 0:
            raise ConfigError("data: the training part is empty. Check data.params.")
        self._accumulate, self._batch_size = accumulate, batch_size
        self.batches_per_epoch = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        self.steps_per_epoch = -(-self.batches_per_epoch // accumulate)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"data.batch_size: must be <= {len(split)}, the number of training samples, with drop_last;"
                f" got {batch_size}. Lower it, or set data.drop_last to false."
            )
        self.smallest_batch = batch_size if drop_last else (len(split) - 1) % batch_size + 1
        self._numbered = _NumberedBatches(split, batch_size, seed, self.batches_per_epoch)
        self._pin_memory = pin_memory
        self._ahead = _Ahead(self._numbered, workers, pin_memory) if workers else None

    def of_update(self, step: int) -> Iterator[Batch]:
        """Yield the batches of update `step`. Raises UserCodeError if a worker process cannot make one."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        first = epoch * self.batches_per_epoch + offset * self._accumulate
        for number in range(first, first + self.count(step)):
            if self._ahead is not None:
                yield self._ahead.batch(number)
            else:
                batch = self._numbered.make(number)
                yield {name: tensor.pin_memory() for name, tensor in batch.items()} if self._pin_memory else batch

    def count(self, step: int) -> int:
        """Return how many batches update `step` has."""
        return min(self._accumulate, self.batches_per_epoch - self._done(step))

    def sizes(self, step: int) -> list[int]:
        """Return how many samples each batch of update `step` has."""
        count = self.count(step)
        ends_the_epoch = self._done(step) + count == self.batches_per_epoch
        return [self._batch_size] * (count - 1) + [self.smallest_batch if ends_the_epoch else self._batch_size]

    def _done(self, step: int) -> int:
        """Return how many batches of its epoch come before update `step`."""
        return step % self.steps_per_epoch * self._accumulate

    def close(self) -> None:
        """End the worker processes, and forget what they have made ahead. The next `of_update` starts others."""
        if self._ahead is not None:
            self._ahead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. Raises UserCodeError if a worker has died: a signal says so, in whatever the run was doing."""
        self.close()
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            raise _lost(error) from error


@dataclass(frozen=True)
class _Failure:
    """What a worker sends in place of a batch. reason: for the user. trace: the traceback in the worker."""

    reason: str
    trace: str


class _NumberedBatches(Dataset[Batch | _Failure]):
    """The batches of all epochs, numbered from 0 through the whole run."""

    def __init__(self, split: Split, batch_size: int, seed: int, batches_per_epoch: int) -> None:
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._batches_per_epoch = batches_per_epoch
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def make(self, number: int) -> Batch:
        """Return batch `number`."""
        epoch, index = divmod(number, self._batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _order(len(self._split), self._seed, epoch)
        start = index * self._batch_size
        return self._split.batch(self._order[start : start + self._batch_size])

    def __getitem__(self, number: int) -> Batch | _Failure:
        """Return batch `number`, made in a worker with random numbers of its own, or why there is none.

        What is raised is sent as text: the exception itself might not survive the way to the other process.
        """
        epoch, index = divmod(number, self._batches_per_epoch)
        words = np.random.SeedSequence((self._seed, epoch, index)).generate_state(1, np.uint64)
        seed_all(int(words[0]))
        try:
            return _to_send(self.make(number))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the split is the user's code, which may raise anything
            at = f"data: batch {index} of epoch {epoch} (from 0)"
            reason = str(error) if isinstance(error, ConfigError) else f"{at} cannot be made: {raised(error)}"
            return _Failure(reason, traceback.format_exc())


class _Ahead:
    """Batches in turn from worker processes, which a DataLoader runs."""

    def __init__(self, batches: _NumberedBatches, workers: int, pin_memory: bool) -> None:
        self._batches, self._workers, self._pin_memory = batches, workers, pin_memory
        self._loaded: Any = None
        self._next = 0

    def batch(self, number: int) -> Batch:
        """Return batch `number`. The workers start anew if it is not the one after the last."""
        if self._loaded is None or number != self._next:
            self.close()
            self._loaded, self._next = self._start(number), number
        try:
            made: Batch | _Failure = next(self._loaded)
        except RuntimeError as error:
            self.close()
            raise _lost(error) from error
        self._next += 1
        if isinstance(made, _Failure):
            self.close()
            raise UserCodeError(made.reason) from RuntimeError(made.trace)
        return made

    def close(self) -> None:
        """End the workers, if there are any."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded._shutdown_workers()  # left to __del__, they would live as long as a traceback that knows them

    def _start(self, first: int) -> Any:
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=count(first),  # without end, over all epochs
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # or it would draw a number from the run's
            worker_init_fn=_serve_the_run,
        )
        try:
            return iter(loader)
        except (AttributeError, OSError, PickleError, RuntimeError, TypeError) as error:
            raise ConfigError(f"data.workers: a worker process cannot be started: {error}") from error


def _serve_the_run(worker: int) -> None:
    # Ctrl-C, and most clusters, send them to all processes of a run, which needs batches to finish its update.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdout, sys.stderr = map(unfailing, (sys.stdout, sys.stderr))  # a data set may print


def _lost(error: RuntimeError) -> UserCodeError:
    """Return how the user is told of the DataLoader's `error`. What its signal handler raised says most."""
    first = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error
    reason = str(first).strip().removesuffix(".")
    guard = "" if get_start_method() == "fork" else _GUARD
    return UserCodeError(
        f"data.workers: {reason}. Fewer workers need less memory; with 0 the run makes the batches itself.{guard}"
    )


def _to_send(batch: Batch) -> Batch:
    """Return a copy of `batch`: the split may go on writing to its tensors, or hold all its samples in their storage.

    Raises TypeError for what is no tensor: its way to the other process might fail, and the run would wait for ever.
    """
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"a batch is a dict of tensors; {name} is of type {type(value).__name__}")
    return {name: tensor.detach().clone() for name, tensor in batch.items()}


def _order(size: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(size, generator=generator)
