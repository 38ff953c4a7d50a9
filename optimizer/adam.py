"""`adam` and `adamw`: PyTorch's own, with the schedule of your choice inside."""

from typing import ClassVar

from torch.optim import Adam, AdamW, Optimizer

from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory
from optimizer.validation import Beta, Config, NonNegativeNumber, PositiveNumber


class AdamOptions(Config):
    """The options that Adam and AdamW share, with PyTorch's defaults."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    eps: NonNegativeNumber = 1e-8
    """Added to the denominator."""
    amsgrad: bool = False
    """Whether to divide by the largest second moment so far."""
    maximize: bool = False
    """Whether to go up the gradient."""


@OPTIMIZER_BUILDER_REGISTRY.register("adam")
class AdamFactory(AdamOptions, FreeScheduleFactory):
    """torch.optim.Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    optimizer_class: ClassVar[type[Optimizer]] = Adam
    fused_by_default: ClassVar[bool] = True

    lr: PositiveNumber = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty, added to the gradient."""
    grad_clip_norm: NonNegativeNumber | None = 10.0
    """Joint L2 norm that this optimizer's gradients are scaled down to; 0 or null: no clipping."""


@OPTIMIZER_BUILDER_REGISTRY.register("adamw")
class AdamWFactory(AdamOptions, FreeScheduleFactory):
    """torch.optim.AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    optimizer_class: ClassVar[type[Optimizer]] = AdamW
    fused_by_default: ClassVar[bool] = True

    lr: PositiveNumber = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeNumber = 0.01
    """Decoupled weight decay."""
    grad_clip_norm: NonNegativeNumber | None = 10.0
    """Joint L2 norm that this optimizer's gradients are scaled down to; 0 or null: no clipping."""
