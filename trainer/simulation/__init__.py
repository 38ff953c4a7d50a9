"""Environments in which policies are evaluated. Importing this package registers `gym`."""

from . import gym  # noqa: F401 registers it
