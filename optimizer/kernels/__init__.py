"""Faster steps: each has the effect of a class's step, on the class's own state."""

from .registry import implementation_of, uncompiled_reason
from .switches import IMPLEMENTATIONS
from .together import step_together

__all__ = ["IMPLEMENTATIONS", "implementation_of", "step_together", "uncompiled_reason"]
