"""Data: a batch is a dict of tensors; a data set brings its statistics and its held-out part."""

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from optimizer import Registry

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
    """A split held in memory: each tensor of `tensors` has one sample a row.

    Raises ValueError if there is no tensor, or they have different numbers of rows.
    """

    def __init__(self, tensors: Batch) -> None:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.dim() == 0:
                kind = "a number" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
                raise ValueError(f"TensorSplit takes tensors with one sample a row; {name!r} is {kind}")
        if len({len(tensor) for tensor in tensors.values()}) != 1:
            rows = ", ".join(f"{name} {len(tensor)}" for name, tensor in tensors.items()) or "no tensors"
            raise ValueError(f"TensorSplit takes tensors of as many rows as there are samples; got {rows}")
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

    def state_dict(self) -> Mapping[str, Any]:
        """Return what serving batches changes in this object and its splits, as `Objective.state_dict` does.

        What it has of its own is for a run without data.workers.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned. Raises anything for one that does not fit."""
        if state:
            raise ValueError(f"{type(self).__name__} has no load_state_dict, and this state: {', '.join(state)}")

    def fingerprint(self) -> str | None:
        """Return a text that another content of the data changes; None: the trainer makes one of a few samples."""
        return None


DATASET_REGISTRY: Registry[DataSet] = Registry("data set", DataSet, entry_points="innerstep.datasets")


def in_order(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yield the samples of `split` once, in their own order."""
    for indices in torch.split(torch.arange(len(split)), min(batch_size, len(split))):
        yield split.batch(indices)
