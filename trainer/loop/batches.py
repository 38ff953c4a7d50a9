"""Training batches: their order, and worker processes that make them ahead."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from multiprocessing import get_start_method
from pickle import PickleError
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from ..config.schema import ExperimentConfig
from ..distributed.world import Place, World
from ..errors import ConfigError, UserCodeError, raised, user_calls
from ..interfaces.dataset import Batch, Split
from ..runtime.parents import end_with_parent
from ..runtime.rng import seed_all
from ..runtime.signals import SIGNALS
from ..runtime.streams import unfailing_stream

_MAIN_GUARD_HINT = (
    ' Under this start method a script needs `if __name__ == "__main__":` around what it runs: each worker reads the'
    " script again."
)

_ALIGNMENT = 64
"""Tensors in shared memory begin at multiples of so many bytes."""


class ShuffledBatches:
    """Batches of a split, reshuffled every epoch, `accumulate` of them an update.

    The last batch of an epoch is short, or left out; an epoch's last update has the batches that are left. The order
    is a pure function of the seed and the update count, so that a run resumes in the middle of an epoch without
    reading the batches before.

    Args:
        split: The data.
        batch_size: Samples a batch.
        seed: Where the order starts.
        drop_last: Whether a short last batch of an epoch is left out.
        accumulate: Batches an update.
        workers: Processes that make the batches ahead, from the first request until `close`; 0: none.
        pin_memory: Whether the batches are in pinned memory.
        place: Of the process, which makes the samples that it takes of each batch.

    Raises:
        ConfigError: The split is empty, or has less than one batch.
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
        place: Place = Place(),  # noqa: B008 it cannot change
    ) -> None:
        if len(split) == 0:
            raise ConfigError("data: the training split is empty. Check data.params.")
        self._accumulate, self._batch_size = accumulate, batch_size
        self.batches_per_epoch = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        self.steps_per_epoch = -(-self.batches_per_epoch // accumulate)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"data.batch_size: must be <= {len(split)}, the number of training samples, with drop_last;"
                f" got {batch_size}. Lower it, or set data.drop_last to false."
            )
        self.smallest_batch = batch_size if drop_last else (len(split) - 1) % batch_size + 1
        self._numbered = _NumberedBatches(split, batch_size, seed, self.batches_per_epoch, place)
        self._pin_memory = pin_memory
        self._workers_ahead = _WorkerBatches(self._numbered, workers, pin_memory) if workers else None

    def of_update(self, step: int) -> Iterator[Batch]:
        """Yield the batches of update `step`.

        Raises:
            UserCodeError: A worker process cannot make one.
        """
        epoch, offset = divmod(step, self.steps_per_epoch)
        first = epoch * self.batches_per_epoch + offset * self._accumulate
        for number in range(first, first + self.batch_count(step)):
            if self._workers_ahead is not None:
                yield self._workers_ahead.batch(number)
            else:
                batch = self._numbered.make(number)
                yield {name: tensor.pin_memory() for name, tensor in batch.items()} if self._pin_memory else batch

    def batch_count(self, step: int) -> int:
        """Return how many batches update `step` has."""
        return min(self._accumulate, self.batches_per_epoch - self._batches_before(step))

    def sizes(self, step: int) -> list[int]:
        """Return how many samples each batch of update `step` has, over all processes."""
        count = self.batch_count(step)
        ends_the_epoch = self._batches_before(step) + count == self.batches_per_epoch
        return [self._batch_size] * (count - 1) + [self.smallest_batch if ends_the_epoch else self._batch_size]

    def _batches_before(self, step: int) -> int:
        """Return how many batches of its epoch come before update `step`."""
        return step % self.steps_per_epoch * self._accumulate

    def close(self) -> None:
        """End the worker processes and drop the batches made ahead. The next `of_update` starts new processes."""
        if self._workers_ahead is not None:
            self._workers_ahead.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close.

        Raises:
            UserCodeError: A worker has died. A signal handler of torch's raised that, wherever the run was.
        """
        self.close()
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            raise _worker_error(error) from error


def shuffled_batches(
    config: ExperimentConfig, split: Split, world: World | None = None, ahead: bool = False
) -> ShuffledBatches:
    """Return the training batches of a run over `split`.

    Args:
        world: The processes of the run, of whose batches this one makes its samples; left out: the whole batches.
        ahead: Whether they are made ahead by the worker processes, and put into pinned memory, as the config asks.

    Raises:
        ConfigError: The split has less than one batch.
    """
    data, accumulate = config.data, config.train.accumulate
    ways = (data.workers, data.pin_memory) if ahead else (0, False)
    place = Place() if world is None else world.place
    return ShuffledBatches(split, data.batch_size, config.seed, data.drop_last, accumulate, *ways, place)


def in_order(split: Split, batch_size: int, place: Place = Place()) -> Iterator[tuple[int, Batch]]:  # noqa: B008 it cannot change
    """Yield the samples of `split` once, in their own order.

    Each batch comes as the number of its samples, and those that the process at `place` takes.
    """
    for indices in torch.split(torch.arange(len(split)), min(batch_size, len(split))):
        taken = place.taken(len(indices))
        yield len(indices), split.batch(indices[taken.start : taken.stop])


@dataclass(frozen=True)
class _Failure:
    """Sent by a worker in place of a batch."""

    reason: str
    """The message for the user."""
    calls: str
    """The user's lines in the traceback."""


class _NumberedBatches(Dataset[Batch | _Failure]):
    """The batches of all epochs, numbered from 0 through the whole run."""

    def __init__(self, split: Split, batch_size: int, seed: int, batches_per_epoch: int, place: Place) -> None:
        self._split, self._batch_size, self._seed, self._place = split, batch_size, seed, place
        self._taken, self._whole = place.taken(batch_size), len(split) // batch_size
        self._batches_per_epoch = batches_per_epoch
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def make(self, number: int) -> Batch:
        """Return batch `number`."""
        epoch, index = divmod(number, self._batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _epoch_order(len(self._split), self._seed, epoch)
        start = index * self._batch_size
        taken = self._taken if index < self._whole else self._place.taken(len(self._split) - start)
        return self._split.batch(self._order[start + taken.start : start + taken.stop])

    def __getitem__(self, number: int) -> Batch | _Failure:
        """Return batch `number`, made in a worker with random numbers of this batch alone, or the reason why not.

        Several processes draw different numbers. An exception is sent as text: the object itself might not survive the
        way to the other process.
        """
        epoch, index = divmod(number, self._batches_per_epoch)
        rank = () if self._place.size == 1 else (self._place.rank,)
        words = np.random.SeedSequence((self._seed, epoch, index), spawn_key=rank).generate_state(1, np.uint64)
        seed_all(int(words[0]))
        try:
            return _copy_batch(self.make(number))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the split is the user's code, which may raise anything
            at = f"data: batch {index} of epoch {epoch} (from 0)"
            reason = str(error) if isinstance(error, ConfigError) else f"{at} cannot be made: {raised(error)}"
            return _Failure(reason, user_calls(error))


class _WorkerBatches:
    """Batches in order from worker processes, which a DataLoader runs."""

    def __init__(self, batches: _NumberedBatches, workers: int, pin_memory: bool) -> None:
        self._batches, self._workers, self._pin_memory = batches, workers, pin_memory
        self._loaded: _BaseDataLoaderIter | None = None
        self._next = 0

    def batch(self, number: int) -> Batch:
        """Return batch `number`. The workers are restarted if it does not follow the last one."""
        if self._loaded is None or number != self._next:
            self.close()
            self._loaded, self._next = self._start(number), number
        try:
            made: Batch | _Failure = next(self._loaded)
        except RuntimeError as error:
            self.close()
            raise _worker_error(error) from error
        self._next += 1
        if isinstance(made, _Failure):
            self.close()
            raise UserCodeError(made.reason) from RuntimeError(made.calls)
        return made

    def close(self) -> None:
        """End the workers, if there are any."""
        loaded, self._loaded = self._loaded, None
        if isinstance(loaded, _MultiProcessingDataLoaderIter):
            # Left to __del__, they would live as long as a traceback that refers to them.
            loaded._shutdown_workers()

    def _start(self, first: int) -> _BaseDataLoaderIter:
        loader = DataLoader(
            self._batches,
            batch_size=None,
            sampler=count(first),  # without end, over all epochs
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # or it would draw a number from the run's
            worker_init_fn=_prepare_worker,
        )
        try:
            return iter(loader)
        except (AttributeError, OSError, PickleError, RuntimeError, TypeError) as error:
            raise ConfigError(f"data.workers: a worker process cannot be started: {error}") from error


def _prepare_worker(worker: int) -> None:
    # Ctrl-C, and most clusters, signal all processes of a run; but the run needs batches to finish its update.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    sys.stdout, sys.stderr = map(unfailing_stream, (sys.stdout, sys.stderr))  # a data set may print


def _worker_error(error: RuntimeError) -> UserCodeError:
    """Return the user's message for the DataLoader's `error`: its cause, if torch's signal handler raised one."""
    first = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error
    reason = str(first).strip().removesuffix(".")
    guard = "" if get_start_method() == "fork" else _MAIN_GUARD_HINT
    return UserCodeError(
        f"data.workers: {reason}. Fewer workers need less memory; with 0 the run makes the batches itself.{guard}"
    )


def _copy_batch(batch: Batch) -> Batch:
    """Return a copy of `batch`: the split may write to its tensors later, or hold all samples in their storage.

    Raises TypeError for a value that is not a tensor: sending it to the other process might fail, and the run would
    wait for ever.
    """
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"a batch is a dict of tensors; {name} is of type {type(value).__name__}")
    detached = {name: tensor.detach() for name, tensor in batch.items()}
    if all(map(_is_plain, detached.values())):
        return _shared_copy(detached)
    return {name: tensor.clone() for name, tensor in detached.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is nothing but numbers in the processor's memory."""
    plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type == "cpu"
    return plain and not (tensor.is_nested or tensor.is_quantized)


def _shared_copy(batch: Batch) -> Batch:
    """Return a copy of `batch` in one piece of shared memory, with the strides that `clone` gives.

    torch's queue opens a connection for each piece that it sends, and first copies what is not shared.
    """
    like = {name: torch.empty_like(tensor, device="meta") for name, tensor in batch.items()}
    sizes = (-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in like.values())
    *starts, end = accumulate(sizes, initial=0)
    memory = torch.UntypedStorage._new_shared(max(end, 1))  # type: ignore[no-untyped-call]  # torch's collate calls it
    made: Batch = {}
    for (name, tensor), start in zip(like.items(), starts, strict=True):
        place = torch.empty(0, dtype=tensor.dtype)
        place.set_(memory, start // tensor.itemsize, tensor.shape, tensor.stride())
        made[name] = place.copy_(batch[name])
    return made


def _epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(size, generator=generator)
