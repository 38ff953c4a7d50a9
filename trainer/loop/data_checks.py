"""Checks before a run begins: a data set has the splits and the batches that the run needs."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from optimizer.config import counted

from ..config.entries import DataConfig
from ..errors import ConfigError, raised
from ..interfaces.dataset import Batch, DataSet, Split
from ..interfaces.objective import Objective

TRAIN, HELD_OUT = "the training split", "the held-out split"


def check_splits(data: DataSet) -> None:
    """Check the two splits of a data set.

    Raises:
        ConfigError: The training split is missing or empty, or the held-out split is empty, or one is not a split.
    """
    for name, title in (("train", TRAIN), ("held_out", HELD_OUT)):
        if not hasattr(data, name):
            none = ", to None if nothing is held out" if name == "held_out" else ""
            raise ConfigError(f"data: {type(data).__name__} has no {name!r}. Set it in the constructor{none}.")
        split = getattr(data, name)
        if split is None and name == "held_out":
            continue
        if not callable(getattr(split, "batch", None)) or not hasattr(type(split), "__len__"):
            raise ConfigError(
                f"data: {title} must have __len__() and batch(indices); got a {type(split).__name__}."
                " TensorSplit makes one of tensors."
            )
        if _length(split, title) == 0:
            none = " Hold out at least one sample, or set held_out to None." if name == "held_out" else ""
            raise ConfigError(f"data: {title} is empty. Check data.params.{none}")


def check_means(
    objective: Objective, accumulate: int, held_out: Split | None, batch_size: int, processes: int = 1
) -> None:
    """Check that batches are averaged only where that gives what one large batch would give.

    Args:
        accumulate: Batches an update.
        batch_size: Samples a batch.
        processes: How many share each batch.

    Raises:
        ConfigError: Losses are not means over samples, or depend on steps of the same update, and batches would be
            averaged in an update, in an evaluation or over processes.
    """
    if objective.steps_in_turn and accumulate > 1:
        raise ConfigError(
            f"train.accumulate: must be 1; got {accumulate}. {type(objective).__name__} steps one component after"
            " another in an update, and each loss depends on the steps before it. Raise data.batch_size instead."
        )
    if objective.means_over_samples:
        return
    sums = f"{type(objective).__name__}.means_over_samples is false, so that batches cannot be averaged"
    if processes > 1:
        raise ConfigError(f"train.objective: must be trained by one process; got {processes}. {sums}.")
    if accumulate > 1:
        raise ConfigError(f"train.accumulate: must be 1; got {accumulate}. {sums}.")
    samples = 0 if held_out is None else len(held_out)
    if samples > batch_size and samples % batch_size:
        raise ConfigError(f"data.batch_size: must divide the {samples} held-out samples; got {batch_size}. {sums}.")


def check_pin_memory(config: DataConfig, device: torch.device) -> None:
    """Check that pinned memory is asked for on a CUDA device only.

    Raises:
        ConfigError: The run's device is another one.
    """
    if config.pin_memory and device.type != "cuda":
        raise ConfigError(f"data.pin_memory: is for a CUDA device; the run's is {device}. Set it to false.")


def first_batch(split: Split, name: str, samples: int, skipped: int = 0) -> Batch:
    """Return the batch of the first `samples` of a split, or of all if it has fewer.

    Args:
        name: The split in a message: TRAIN or HELD_OUT.
        samples: How many.
        skipped: So many times as many come before them; after the last sample comes the first one.

    Raises:
        ConfigError: The split cannot make the batch, or makes something else.
    """
    indices = (torch.arange(min(samples, len(split))) + skipped * samples) % len(split)
    try:
        batch: object = split.batch(indices)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a split is the user's code, which may raise anything
        raise ConfigError(f"data: {name} cannot make a batch of samples {indices.tolist()}: {raised(error)}") from error
    if problem := batch_problem(batch, len(indices)):
        raise ConfigError(f"data: {name}: {problem}")
    return dict(cast("Batch", batch))


def batch_problem(batch: object, samples: int) -> str | None:
    """Return the reason why `batch` is not a batch of so many samples, or None."""
    if not isinstance(batch, Mapping) or not batch:
        return f"a batch must be a dict of tensors with one sample a row; got {type(batch).__name__} {str(batch)[:40]}"
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            return f"a batch must be a dict of tensors; its {name!r} is a {type(value).__name__}"
        if value.dim() == 0 or value.size(0) != samples:
            rows = "a number without rows" if value.dim() == 0 else f"of {counted(value.size(0), 'row')}"
            expected = f"a batch of {counted(samples, 'sample')}"
            return f"{expected} must have one row a sample in each tensor; its {name!r} is {rows}"
    return None


def _length(split: Split, name: str) -> int:
    try:
        return len(split)
    except Exception as error:  # a split is the user's code, which may raise anything
        raise ConfigError(f"data: the length of {name} cannot be found: {raised(error)}") from error
