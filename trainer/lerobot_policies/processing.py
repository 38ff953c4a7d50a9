"""Batches as LeRobot's policies take them, by LeRobot's own processors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..interfaces.dataset import Batch
from .data_fit import OBSERVATION, has_time

Statistics = Mapping[str, Mapping[str, Tensor]]
"""The statistics of the data set by feature."""

TASK, TASK_INDEX, _IS_PAD = "task", "task_index", "_is_pad"

WITHOUT_WORDS = frozenset({"act", "diffusion", "gaussian_actor", "tdmpc", "vqbet"})
"""Types of policies that do not read the task in words."""


def processors(config: Any, statistics: Statistics) -> tuple[Any, Any]:
    """Return LeRobot's pre- and postprocessor for a policy.

    Args:
        config: LeRobot's config object of the policy.
        statistics: Of the features, by which they normalize.
    """
    from lerobot.policies.factory import make_pre_post_processors

    pair: tuple[Any, Any] = make_pre_post_processors(
        config, dataset_stats={name: dict(of) for name, of in statistics.items()}
    )
    return pair


def training_batch(config: Any, batch: Batch, tasks: Sequence[str]) -> dict[str, Any]:
    """Return a batch of the data set as LeRobot's training script gives it to the preprocessor.

    Time is a dimension of those features alone of which the policy trains on several time steps; the others lose it.

    Args:
        config: LeRobot's config object of the policy.
        batch: The samples. Frames are uint8, or float32 in 0..1.
        tasks: The texts of the tasks by number.
    """
    features = {**config.input_features, **config.output_features}
    converted: dict[str, Any] = {}
    for name, value in batch.items():
        feature = name.removesuffix(_IS_PAD)
        if feature.startswith(OBSERVATION) and feature not in features:
            continue
        if has_time(config, feature):
            converted[name] = value
        elif feature == name:
            is_several = feature in features and value.dim() > len(features[feature].shape) + 1
            converted[name] = value[:, -1] if is_several else value
    if TASK_INDEX in batch and tasks and config.type not in WITHOUT_WORDS:
        converted[TASK] = [tasks[number] for number in batch[TASK_INDEX].flatten().tolist()]
    return _frames_as_floats(config, converted)


def observation_batch(config: Any, observation: Batch, task: str) -> dict[str, Any]:
    """Return the observations of several environments as LeRobot's evaluation gives them to the preprocessor.

    Args:
        config: LeRobot's config object of the policy.
        observation: Tensors (N, …) by feature; frames are uint8.
        task: The policy's task in words.
    """
    converted: dict[str, Any] = {name: observation[name] for name in config.input_features if name in observation}
    if config.type not in WITHOUT_WORDS:  # a number of texts would fix the number of samples in an export
        converted[TASK] = [task] * len(next(iter(observation.values())))
    return _frames_as_floats(config, converted)


def _frames_as_floats(config: Any, batch: dict[str, Any]) -> dict[str, Any]:
    for name in config.image_features:
        if name in batch and batch[name].dtype == torch.uint8:
            batch[name] = batch[name].to(torch.float32) / 255.0
    return batch
