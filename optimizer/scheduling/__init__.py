"""The schedule inside an optimizer: the position, the options that it moves, and the step that moves it."""

from .scheduler import NO_CURVE

__all__ = ["NO_CURVE"]
