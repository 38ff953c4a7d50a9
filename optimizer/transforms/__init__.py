"""The other things that happen around a step: clipping, cautious updates, several classes as one, memory layout."""

from .clipping import clip_to_norm, total_norm
from .composite_optimizer import MEMBER

__all__ = ["MEMBER", "clip_to_norm", "total_norm"]
