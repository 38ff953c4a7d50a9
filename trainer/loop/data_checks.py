"""Whether a data set has the parts and the batches that a run needs, seen before the run begins."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optimizer.config import counted

from ..errors import ConfigError, raised
from ..interfaces.dataset import Batch, DataSet

TRAIN, HELD_OUT = "the training part", "the held-out part"


def check_parts(data: DataSet) -> None:
    """Raise ConfigError unless `data` has a training part that is not empty, and a held-out part or none."""
    for name, what in (("train", TRAIN), ("held_out", HELD_OUT)):
        if not hasattr(data, name):
            none = ", to None if nothing is held out" if name == "held_out" else ""
            raise ConfigError(f"data: {type(data).__name__} has no {name!r}. Set it in the constructor{none}.")
        split = getattr(data, name)
        if split is None and name == "held_out":
            continue
        if not callable(getattr(split, "batch", None)) or not hasattr(type(split), "__len__"):
            raise ConfigError(
                f"data: {what} must have __len__() and batch(indices); got a {type(split).__name__}."
                " TensorSplit makes one of tensors."
            )
        if _length(split, what) == 0:
            none = " Hold out at least one sample, or set held_out to None." if name == "held_out" else ""
            raise ConfigError(f"data: {what} is empty. Check data.params.{none}")


def first_batch(split: Any, what: str, samples: int) -> Batch:
    """Return the batch of the first `samples` of a split, or of all if it has fewer.

    what: the part, for the message. Raises ConfigError if the split cannot make it, or it is no batch.
    """
    indices = torch.arange(min(samples, len(split)))
    try:
        batch = split.batch(indices)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a split is the user's code, which may raise anything
        raise ConfigError(f"data: {what} cannot make a batch of samples {indices.tolist()}: {raised(error)}") from error
    if problem := batch_problem(batch, len(indices)):
        raise ConfigError(f"data: {what}: {problem}")
    return dict(batch)


def batch_problem(batch: Any, samples: int) -> str | None:
    """Return what keeps `batch` from being a batch of so many samples, or None."""
    if not isinstance(batch, Mapping) or not batch:
        return f"a batch must be a dict of tensors with one sample a row; got {type(batch).__name__} {str(batch)[:40]}"
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            return f"a batch must be a dict of tensors; its {name!r} is a {type(value).__name__}"
        if value.dim() == 0 or value.size(0) != samples:
            rows = "a number without rows" if value.dim() == 0 else f"of {counted(value.size(0), 'row')}"
            batch = f"a batch of {counted(samples, 'sample')}"
            return f"{batch} must have one row a sample in each tensor; its {name!r} is {rows}"
    return None


def _length(split: Any, what: str) -> int:
    try:
        return len(split)
    except Exception as error:  # as above
        raise ConfigError(f"data: the length of {what} cannot be found: {raised(error)}") from error
