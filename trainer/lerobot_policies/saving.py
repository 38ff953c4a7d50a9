"""Writes the folder that LeRobot loads: weights, config.json, and both processors."""

from pathlib import Path
from typing import Any

from torch import nn

from ..splitting.parts import REST, whole_module
from .objective import LeRobotPolicy


def save_pretrained(folder: Path, components: nn.ModuleDict, objective: LeRobotPolicy) -> None:
    """Write a trained policy as LeRobot's `save_pretrained` does.

    The config names no device: LeRobot chooses it when it loads the folder, unless one is given.

    Args:
        folder: A folder; it is made.
        components: The components by name, as a loaded run has them.
        objective: The run's, with its state.

    Raises:
        ConfigError: The policy is not LeRobot's.
        OSError: A file cannot be written.
    """
    config, preprocessor, postprocessor = objective.lerobot_parts(components)
    policy: Any = whole_module(components[REST])
    device, config.device = config.device, None
    try:
        policy.save_pretrained(folder)
    finally:
        config.device = device
    preprocessor.save_pretrained(folder)
    postprocessor.save_pretrained(folder)
