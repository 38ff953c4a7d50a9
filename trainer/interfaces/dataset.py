"""Data: batches, splits, and data sets with their statistics and held-out split."""

from abc import ABC
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from optimizer import Registry

from .features import Feature

Batch = dict[str, Tensor]
"""Tensors by name, each with one sample a row."""


class Split(Protocol):
    """One part of a data set, read by index."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices` (int64, one dimension), stacked along dimension 0."""
        ...


class TensorSplit:
    """A split held in memory.

    Args:
        tensors: Tensors by name, each with one sample a row.

    Raises:
        ValueError: There is no tensor, or they have different numbers of rows.
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
        """Return the number of samples."""
        return len(next(iter(self._tensors.values())))

    def batch(self, indices: Tensor) -> Batch:
        """Return the rows at `indices`."""
        return {name: tensor[indices] for name, tensor in self._tensors.items()}


class DataSet(ABC):
    """A fixed data set. A subclass sets `train` and `held_out` in its constructor."""

    train: Split
    """The samples to train on."""
    held_out: Split | None
    """The samples to evaluate on; None: there are none, and the run evaluates nothing."""
    statistics: Mapping[str, Any] = MappingProxyType({})
    """Properties of the data as a whole that an objective may need (means, ranges, class names), by name. Values are
    tensors or plain values. Empty if the class does not set it. For each feature: a mapping with `mean`, `std`, `min`
    and so on, float32 tensors; its `tasks` are the texts of the tasks by number."""
    features: Mapping[str, Feature] = MappingProxyType({})
    """The columns that a policy can read and predict, by name. Empty if the class does not set it."""
    deltas: Mapping[str, Sequence[int]] = MappingProxyType({})
    """The time steps of a sample by feature, as distances in frames from the sample's own: [-1, 0] are the frame before
    and its own. Of a feature that is not in it, the last observation is the sample's own, and the first action is."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state that serving batches changes in this object and its splits.

        It has the form of `Objective.state_dict`. With `data.workers` the batches are served by copies in other
        processes, whose changes do not reach this object.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned.

        Raises:
            ValueError: The class has no state, and this is one. An override may raise anything.
        """
        if state:
            raise ValueError(f"{type(self).__name__} has no load_state_dict, and this state: {', '.join(state)}")

    def fingerprint(self) -> str | None:
        """Return a text that changes with the content of the data; None: the trainer makes one of a few samples."""
        return None


DATASET_REGISTRY: Registry[DataSet] = Registry("data set", DataSet, entry_points="innerstep.datasets")
"""Classes of data sets by key."""
