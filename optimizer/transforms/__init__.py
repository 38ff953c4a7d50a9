"""The other things that happen around a step: clipping, cautious updates, several classes as one, memory layout."""

from .clipping import clip_factor, clip_to_norm, scales_in_step
from .composite_optimizer import MEMBER
from .gradient_norms import quick_norms, total_norm
from .gradient_scale import scale_all

__all__ = ["MEMBER", "clip_factor", "clip_to_norm", "quick_norms", "scale_all", "scales_in_step", "total_norm"]
