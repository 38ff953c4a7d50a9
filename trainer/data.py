"""Data: a batch is a dict of tensors; a data set brings its statistics and its held-out part."""

from abc import ABC
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from optimizer import Registry
from trainer.errors import ConfigError

Batch = dict[str, Tensor]


class Split(Protocol):
    """One part of a data set, read by index."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices` (int64, one dimension), stacked along dimension 0."""
        ...


class TensorSplit:
    """A split held in memory: each tensor of `tensors` has one sample a row."""

    def __init__(self, tensors: Batch) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def batch(self, indices: Tensor) -> Batch:
        return {name: tensor[indices] for name, tensor in self._tensors.items()}


class DataSet(ABC):
    """A fixed data set.

    train, held_out: its two parts; held_out is None where nothing is held out, and nothing is then
    evaluated. statistics: what an objective may need to know about the data as a
    whole (means, ranges, class names), by name; values are tensors or plain values.
    """

    train: Split
    held_out: Split | None
    statistics: dict[str, Any]


DATASET_REGISTRY: Registry[DataSet] = Registry("data set", DataSet, entry_points="innerstep.datasets")


class ShuffledBatches:
    """Batches of a split, reshuffled every epoch, `accumulate` of them an update. The last batch of an epoch is short,
    or left out; an epoch's last update has the batches that are left.

    The order is a pure function of the seed and the update count, so that a run is taken up in the
    middle of an epoch without reading what came before. batch_size: samples a batch.
    Raises ConfigError if the split is empty.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, drop_last: bool = False, accumulate: int = 1) -> None:
        if len(split) == 0:
            raise ConfigError("data: the training part is empty. Check data.params.")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self._accumulate = accumulate
        self._batches_per_epoch = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        self.steps_per_epoch = -(-self._batches_per_epoch // accumulate)
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"data.batch_size: must be <= {len(split)}, the number of training samples, with drop_last;"
                f" got {batch_size}. Lower it, or set data.drop_last to false."
            )
        self.smallest_batch = batch_size if drop_last else (len(split) - 1) % batch_size + 1
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def of_update(self, step: int) -> Iterator[Batch]:
        """Yield the batches of update `step`."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _order(len(self.split), self.seed, epoch)
        first = offset * self._accumulate
        for index in range(first, first + self.count(step)):
            start = index * self.batch_size
            yield self.split.batch(self._order[start : start + self.batch_size])

    def count(self, step: int) -> int:
        """Return how many batches update `step` has."""
        done = step % self.steps_per_epoch * self._accumulate
        return min(self._accumulate, self._batches_per_epoch - done)


def in_order(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yield the samples of `split` once, in their own order."""
    for indices in torch.split(torch.arange(len(split)), batch_size):
        yield split.batch(indices)


def _order(size: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(size, generator=generator)
