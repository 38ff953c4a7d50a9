"""The options of AdamW, as the keys with a schedule of their own have them."""

from ..config.validation import Beta, Config, NonNegativeNumber


class AdamWOptions(Config):
    """AdamW's options but the lr, with PyTorch's defaults."""

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
