"""Several data sets as one: shares of the training samples by weights."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.dataset import Batch, Split
from .aggregation import aggregate
from .features import is_camera
from .part import PARAMS, Part

DATASET_INDEX = "dataset_index"
"""The name under which a batch holds the numbers of the samples' data sets."""


class Mixture:
    """The samples of several splits, one split after another.

    Each split has a number of places. Its samples are spread evenly over them: with twice as many places as samples,
    each sample has two. So the sample at an index is always the same one.

    Args:
        splits: The splits, whose batches have the same names, shapes and types.
        places: By split: how many samples of an epoch are from it.
        task_numbers: By split: the numbers of its tasks among the tasks of all.
    """

    def __init__(self, splits: Sequence[Split], places: Sequence[int], task_numbers: Sequence[Tensor]) -> None:
        self._splits, self._places, self._task_numbers = splits, places, task_numbers
        self._ends = torch.tensor(list(accumulate(places)))

    def __len__(self) -> int:
        """Return the number of places."""
        return int(self._ends[-1])

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`; `dataset_index` holds the numbers of their data sets.

        Raises:
            IndexError: An index is negative, or not less than the number of places.
        """
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"indices must be from 0 to {len(self) - 1}; got {indices.tolist()}")
        numbers = torch.searchsorted(self._ends, indices, right=True)
        made: Batch = {}
        for number in sorted(set(numbers.tolist())):
            mine = (numbers == number).nonzero().flatten()
            place = indices[mine] - (self._ends[number] - self._places[number])
            part = self._splits[number].batch(place * len(self._splits[number]) // self._places[number])
            if "task_index" in part:
                part["task_index"] = self._task_numbers[number][part["task_index"]]
            for name, values in part.items():
                made.setdefault(name, values.new_empty(len(indices), *values.shape[1:]))[mine] = values
        return made | {DATASET_INDEX: numbers}


def mixed(parts: Sequence[Part], weights: Sequence[float | None]) -> tuple[Mixture, Mixture | None]:
    """Return the samples of all parts to train on, and those held out, of which each has one place.

    An epoch is the shortest one in which each sample has a place, and the parts have the shares that `weights` give
    them. Without weights, each sample has one place.

    Raises:
        ConfigError: Some parts have a weight, and others have none.
    """
    _, numbers = merged_tasks(parts)
    places = _places([len(part.train) for part in parts], weights)
    train = Mixture([part.train for part in parts], places, numbers)
    held_out = [part.held_out for part in parts if part.held_out is not None]  # all parts have one, or none has
    return train, Mixture(held_out, [len(split) for split in held_out], numbers) if held_out else None


def merged_tasks(parts: Sequence[Part]) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the tasks of all parts, each once, and by part the numbers that its tasks have among them."""
    numbers: dict[str, int] = {}
    for part in parts:
        for task in part.meta.tasks:
            numbers.setdefault(task, len(numbers))
    by_part = [torch.tensor([numbers[task] for task in part.meta.tasks], dtype=torch.int64) for part in parts]
    return tuple(numbers), by_part


def merged_statistics(parts: Sequence[Part]) -> Mapping[str, Mapping[str, Any]]:
    """Return the statistics of all parts together, without regard to weights, as LeRobot aggregates them.

    Raises:
        ConfigError: Some parts have statistics of a feature, and others have none.
    """
    for name in parts[0].features:
        missing = [number for number, part in enumerate(parts) if name not in part.meta.statistics]
        if 0 < len(missing) < len(parts):
            raise ConfigError(
                f"{PARAMS}.datasets.{missing[0]}: has no statistics of {name!r} in its folder meta, as others have."
                f" Without its own, those of all would be wrong. Compute them, or leave the feature out."
            )
    return aggregate([part.meta.statistics for part in parts], f"{PARAMS}.datasets")


def check_alike(parts: Sequence[Part], is_resized: bool) -> None:
    """Check that the parts have the same frame rate and the same features.

    Args:
        parts: The parts.
        is_resized: Whether all frames have one size, whatever the cameras' are.

    Raises:
        ConfigError: They do not.
    """
    first = parts[0]
    for number, part in enumerate(parts):
        path = f"{PARAMS}.datasets.{number}"
        if part.meta.fps != first.meta.fps:
            raise ConfigError(
                f"{path}: has {part.meta.fps:g} frames a second; the first data set has {first.meta.fps:g}."
            )
        for name in [*first.infos, *part.infos]:
            ours, theirs = (
                _kind(infos[name], is_resized) if name in infos else "missing" for infos in (part.infos, first.infos)
            )
            if ours != theirs:
                raise ConfigError(
                    f"{path}: {name!r} is {ours}; in the first data set it is {theirs}. Give the features that all"
                    f" have in common as {PARAMS}.features, or cameras of several sizes a size by {PARAMS}.resize."
                )


def check_apart(parts: Sequence[Part]) -> None:
    """Check that no episode is in two parts: it could be held out in one, and trained on in the other.

    Raises:
        ConfigError: One is.
    """
    for number, part in enumerate(parts):
        for earlier, other in enumerate(parts[:number]):
            if part.meta.root.resolve() == other.meta.root.resolve() and (both := part.episodes & other.episodes):
                raise ConfigError(
                    f"{PARAMS}.datasets.{number}.episodes: has episode {min(both)}, which datasets.{earlier} has too."
                    " With held_out it could be held out in one and trained on in the other. Give it to one of them."
                )


def _kind(info: JsonObject, is_resized: bool) -> str:
    if is_camera(info):
        return "frames" if is_resized else f"frames {list(info['shape'])}"
    return f"{info['dtype']} {list(info['shape'])}"


def _places(samples: Sequence[int], weights: Sequence[float | None]) -> list[int]:
    given = [weight for weight in weights if weight is not None]
    if not given:
        return list(samples)
    if len(given) < len(weights):
        raise ConfigError(f"{PARAMS}.datasets.{list(weights).index(None)}.weight: must be given, as others are.")
    most = max(count / weight for count, weight in zip(samples, given, strict=True))
    return [max(count, round(most * weight)) for count, weight in zip(samples, given, strict=True)]
