"""The options of AdamW, for the keys that have a fixed schedule."""

from ..config.fields import Beta, NonNegativeNumber
from ..config.validation import Config


class AdamWOptions(Config):
    """AdamW's options without the lr, with PyTorch's defaults."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    eps: NonNegativeNumber = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeNumber = 0.01
    """Decoupled weight decay."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far."""
    maximize: bool = False
    """Whether to go up the gradient."""
