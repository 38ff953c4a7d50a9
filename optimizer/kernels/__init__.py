"""Faster steps: each has the effect of a class's step, on the class's own state."""

from .registry import implementation_of, uncompiled_reason
from .switches import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS", "implementation_of", "uncompiled_reason"]
