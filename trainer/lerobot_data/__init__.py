"""Data sets in LeRobot's format on disk. Importing this package registers `lerobot`."""

from . import dataset as dataset
