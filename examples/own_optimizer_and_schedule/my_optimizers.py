"""An optimizer class, its factory, and a schedule, under the keys `lion` and `cooldown` that `config.yaml` uses.
Run `innerstep train config.yaml` to train with them, and `pytest test_my_optimizers.py` to check them."""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, FreeScheduleFactory, RunLength, Schedule


class Lion(Optimizer):
    """x <- x - lr (sign(b1 m + (1 - b1) g) + weight_decay x), then m <- b2 m + (1 - b2) g.

    Source: Chen et al. 2023, arXiv:2302.06675.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # two overloads
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = momentum.lerp(parameter.grad, 1 - b1).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - b2)
        return loss


@OPTIMIZER_BUILDER_REGISTRY.register("lion")
class LionFactory(FreeScheduleFactory):
    """Lion. The fields are the options of a config; the base class adds schedules, parameter groups and clipping."""

    optimizer_class: ClassVar[type[Optimizer]] = Lion

    lr: Annotated[float, Field(ge=0)] = 1e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the step's direction and of the momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""


@SCHEDULE_REGISTRY.register("cooldown")
class Cooldown(Schedule):
    """1, and in the last part of the run 1 - sqrt(progress). Source: Hägele et al. 2024, arXiv:2405.18392."""

    absolute: ClassVar[bool] = False  # `lr_at` returns a factor on the optimizer's lr
    length_field: ClassVar[str | None] = "total_steps"  # the field that is the length of the run if it is left out

    total_steps: RunLength = None  # also takes 10ep and auto
    """Updates in the run; left out: its length."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the run that is the cooldown."""

    def lr_at(self, update: int) -> float:
        assert self.total_steps is not None  # filled in when the optimizer is built
        length = self.share * self.total_steps
        progress = (update - self.total_steps + length) / length
        return 1.0 - math.sqrt(min(max(progress, 0.0), 1.0))
