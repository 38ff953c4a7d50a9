"""Statistics of several episodes or data sets as one, and as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

Statistics = Mapping[str, Mapping[str, Any]]
"""Nested lists of numbers by feature, then by statistic: `mean`, `std`, `min`, `max`, `count`, `q01` and so on."""

_IMAGENET = {"mean": [[[0.485]], [[0.456]], [[0.406]]], "std": [[[0.229]], [[0.224]], [[0.225]]]}
"""Of the images of ImageNet, with values in 0..1; the source is torchvision.models."""


def aggregate(parts: Sequence[Statistics], place: object) -> dict[str, dict[str, Any]]:
    """Return the statistics of all parts together, as `lerobot.datasets.aggregate_stats` does.

    Means and variances are exact; quantiles are the means of the parts' quantiles, weighted by their counts.

    Args:
        parts: The statistics of each part. A feature may be missing in some.
        place: The files, in a message.

    Raises:
        ConfigError: A part lacks a statistic, or has another shape.
    """
    merged: dict[str, dict[str, Any]] = {}
    for feature in dict.fromkeys(name for part in parts for name in part):
        try:
            merged[feature] = _aggregate_feature([part[feature] for part in parts if feature in part])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{place}: the statistics of {feature!r} do not fit together: {error}") from error
    return merged


def as_tensors(statistics: Statistics, imagenet: Sequence[str], place: object) -> dict[str, dict[str, Tensor]]:
    """Return the statistics as float32 tensors.

    Args:
        statistics: Nested lists of numbers.
        imagenet: The cameras whose mean and standard deviation are ImageNet's instead.
        place: The file, in a message.

    Raises:
        ConfigError: A statistic consists of something else than numbers.
    """
    replaced = {key: {**statistics.get(key, {}), **_IMAGENET} for key in imagenet}
    try:
        return {
            feature: {name: torch.tensor(np.atleast_1d(value), dtype=torch.float32) for name, value in values.items()}
            for feature, values in {**statistics, **replaced}.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place}: must hold numbers by feature and statistic: {error}") from error


def _aggregate_feature(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def stacked(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.stack([np.atleast_1d(np.asarray(part[name], np.float64)) for part in parts])

    means = stacked("mean")
    counts = stacked("count").reshape(-1, *[1] * (means.ndim - 1))
    total = counts.sum(axis=0)
    mean = (means * counts).sum(axis=0) / total
    variance = ((stacked("std") ** 2 + (means - mean) ** 2) * counts).sum(axis=0) / total
    quantiles = [
        name for name in parts[0] if name[:1] == "q" and name[1:].isdigit() and all(name in part for part in parts)
    ]
    merged = {"min": stacked("min").min(axis=0), "max": stacked("max").max(axis=0), "mean": mean}
    merged |= {"std": np.sqrt(variance), "count": np.atleast_1d(total.reshape(-1))}
    merged |= {name: (stacked(name) * counts).sum(axis=0) / total for name in quantiles}
    return {name: value.tolist() for name, value in merged.items()}
