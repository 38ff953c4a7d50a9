"""The other things that happen around a step: clipping, cautious updates, several classes as one, memory layout."""

from .clipping import factor_for, scale, total_norm
from .composite_optimizer import MEMBER

__all__ = ["MEMBER", "factor_for", "scale", "total_norm"]
