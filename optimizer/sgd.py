"""`sgd`: PyTorch's own, with the schedule of your choice inside."""

from typing import ClassVar, Self

from pydantic import model_validator
from torch.optim import SGD, Optimizer

from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory
from optimizer.validation import NonNegativeNumber, Number, PositiveNumber


@OPTIMIZER_BUILDER_REGISTRY.register("sgd")
class SGDFactory(FreeScheduleFactory):
    """torch.optim.SGD, with momentum by option (Sutskever et al. 2013)."""

    optimizer_class: ClassVar[type[Optimizer]] = SGD

    lr: PositiveNumber = 1e-3
    """Learning rate."""
    momentum: NonNegativeNumber = 0.0
    """Share of the last step that is kept."""
    dampening: Number = 0.0
    """Share of the gradient that momentum leaves out."""
    nesterov: bool = False
    """Whether the gradient is taken ahead of the momentum step."""
    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty, added to the gradient."""
    maximize: bool = False
    """Whether to go up the gradient."""
    grad_clip_norm: NonNegativeNumber | None = 10.0
    """Joint L2 norm that this optimizer's gradients are scaled down to; 0 or null: no clipping."""

    @model_validator(mode="after")
    def _check_nesterov(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            self.refuse(
                "nesterov",
                f"needs momentum > 0 and dampening 0; got momentum {self.momentum} and dampening {self.dampening}",
            )
        return self
