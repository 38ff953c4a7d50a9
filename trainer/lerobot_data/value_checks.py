"""Checks of the values of a data set."""

from collections.abc import Mapping

import torch
from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from .columns import EPISODE, INDEX
from .decoding import TOLERANCE_SECONDS
from .features import type_of
from .meta import Meta

TIMESTAMP, TASK = "timestamp", "task_index"

_REMEDY = "Leave the episode out by exclude_episodes."


def check_finite(meta: Meta, features: Mapping[str, JsonObject], columns: Mapping[str, Tensor]) -> None:
    """Check that all values that policies see are finite.

    Raises:
        ConfigError: One is not.
    """
    for name, info in features.items():
        if type_of(name, info) is not None and not (finite := columns[name].isfinite()).all():
            row = int(finite.reshape(len(finite), -1).all(1).logical_not().nonzero()[0])
            raise ConfigError(
                f"{meta.root}: {name!r} has NaN or an infinite value in {_frame(meta, columns, row)}. {_REMEDY}"
            )


def check_tasks(meta: Meta, columns: Mapping[str, Tensor]) -> None:
    """Check that each task has its text.

    Raises:
        ConfigError: One has none.
    """
    if TASK not in columns or not meta.tasks:
        return
    unknown = (columns[TASK] < 0) | (columns[TASK] >= len(meta.tasks))
    if unknown.any():
        row = int(unknown.nonzero()[0, 0])
        raise ConfigError(
            f"{meta.root}: the {TASK} {int(columns[TASK][row])} in {_frame(meta, columns, row)} is not among the"
            f" {len(meta.tasks)} tasks in meta. {_REMEDY}"
        )


def check_times(meta: Meta, columns: Mapping[str, Tensor]) -> None:
    """Check that the frames of an episode follow one another at the frame rate, from 0 on, as videos are read.

    Raises:
        ConfigError: They do not.
    """
    starts = torch.tensor([episode.start for episode in meta.episodes])
    expected = (columns[INDEX] - starts[columns[EPISODE]]) / torch.tensor(meta.fps, dtype=torch.float64)
    times = columns[TIMESTAMP].double()
    allowed = TOLERANCE_SECONDS + times.abs() * torch.finfo(torch.float32).eps  # they are rounded to float32
    wrong = (times - expected).abs() > allowed
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ConfigError(
            f"{meta.root}: the {TIMESTAMP} of {_frame(meta, columns, row)} is {float(times[row]):g} s; at"
            f" {meta.fps:g} frames a second, by which videos are read, it is {float(expected[row]):g} s. {_REMEDY}"
        )


def _frame(meta: Meta, columns: Mapping[str, Tensor], row: int) -> str:
    episode = int(columns[EPISODE][row])
    return f"episode {episode}, frame {int(columns[INDEX][row]) - meta.episodes[episode].start}"
