"""Features: the named columns of a data set that a policy reads or predicts."""

from dataclasses import dataclass
from enum import StrEnum


class FeatureType(StrEnum):
    """The role of a feature. The names are LeRobot's."""

    STATE = "STATE"
    """Measurements of the robot itself: joint angles, position of the gripper."""
    VISUAL = "VISUAL"
    """Frames of a camera."""
    ENV = "ENV"
    """The state of the environment, which a simulator knows."""
    ACTION = "ACTION"
    """Commands to the robot."""
    REWARD = "REWARD"
    LANGUAGE = "LANGUAGE"
    """A task in words."""


@dataclass(frozen=True)
class Feature:
    """One column of a data set."""

    type: FeatureType
    shape: tuple[int, ...]
    """The shape of one frame, without batch and time. VISUAL: (channels, height, width)."""
