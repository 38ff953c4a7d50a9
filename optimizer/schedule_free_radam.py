"""`schedule_free_radam`: schedulefree's RAdamScheduleFree, whose averaging stands in for a schedule."""

from typing import ClassVar

import torch
from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch.optim import Optimizer

from optimizer.embedding import ScheduledOptimizer
from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory
from optimizer.validation import Beta, NonNegativeNumber, Number, PositiveBeta, PositiveNumber


class ExactRAdamScheduleFree(ScheduledOptimizer, RAdamScheduleFree):
    """schedulefree.RAdamScheduleFree that comes back from `eval()` to the very bits it left.

    The library goes from the training weights y to the averaged weights x and back by interpolation,
    which rounds: every evaluation would leave a trace in training. Here y is kept (as state "y", while
    in eval mode) and taken back for each weight that still is the x computed from it; a weight that was
    changed meanwhile goes the library's way. Source: Defazio et al. 2024, arXiv:2405.15682.
    """

    @torch.no_grad()
    def eval(self) -> None:
        """Switch the parameters to the averaged weights x, for evaluation and saving."""
        for p in self._parameters_in(train_mode=True):
            self.state[p]["y"] = p.clone()
        super().eval()  # type: ignore[no-untyped-call]  # schedulefree brings no types

    @torch.no_grad()
    def train(self) -> None:
        """Switch the parameters to the training weights y."""
        kept = {p: self.state[p].pop("y") for p in self._parameters_in(train_mode=False) if "y" in self.state[p]}
        unchanged = {p: p == self._averaged(p, y) for p, y in kept.items()}
        super().train()  # type: ignore[no-untyped-call]  # schedulefree brings no types
        for p, y in kept.items():
            p.copy_(torch.where(unchanged[p], y, p))

    def _parameters_in(self, train_mode: bool) -> list[torch.Tensor]:
        groups = [group for group in self.param_groups if group["train_mode"] is train_mode]
        return [p for group in groups for p in group["params"] if "z" in self.state.get(p, {})]

    def _averaged(self, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        beta1 = next(group["betas"][0] for group in self.param_groups if any(q is p for q in group["params"]))
        return y.lerp(end=self.state[p]["z"], weight=1 - 1 / beta1)


@OPTIMIZER_BUILDER_REGISTRY.register("schedule_free_radam")
class RAdamScheduleFreeFactory(FreeScheduleFactory):
    """schedulefree.RAdamScheduleFree: RAdam without warm-up or decay; call train() and eval() on it."""

    optimizer_class: ClassVar[type[Optimizer]] = ExactRAdamScheduleFree

    lr: PositiveNumber = 0.0025
    """Learning rate."""
    betas: tuple[PositiveBeta, Beta] = (0.9, 0.999)
    """Share of the average in the training weights; decay rate of the running mean of the squared gradient."""
    eps: NonNegativeNumber = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty, taken at the training weights."""
    r: Number = 0.0
    """Power of the update count in the weights of the average."""
    weight_lr_power: Number = 2.0
    """Power of the largest lr so far in the weights of the average."""
    foreach: bool = True
    """Whether to run the multi-tensor implementation."""
    silent_sgd_phase: bool = True
    """Whether the first updates, in which RAdam would be SGD, leave the weights alone."""
