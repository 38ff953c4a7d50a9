"""The options of an optimizer that act around a step."""

from dataclasses import dataclass

import torch

from .cautious import Caution


@dataclass(frozen=True)
class StepOptions:
    """The transforms that an optimizer applies around the step of its class.

    Attributes:
        grad_clip_norm: the joint L2 norm that gradients are scaled down to before an update; None or 0: no clipping.
        caution: how steps are made cautious; None: they are not.
        state_dtype: the type of Adam's two moments, for a kernel that takes it; None: that of the parameters.
        stochastic_rounding: whether a kernel rounds bfloat16 parameters at random, right on average, not to nearest.
    """

    grad_clip_norm: float | None = None
    caution: Caution | None = None
    state_dtype: torch.dtype | None = None
    stochastic_rounding: bool = False
