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
        for p, _ in self._averaging(train_mode=True):
            self.state[p]["y"] = p.clone()
        super().eval()  # type: ignore[no-untyped-call]  # schedulefree brings no types

    @torch.no_grad()
    def train(self) -> None:
        """Switch the parameters to the training weights y."""
        kept = []
        for p, beta1 in self._averaging(train_mode=False):
            if "y" in self.state[p]:
                y = self.state[p].pop("y")
                kept.append((p, y, p == y.lerp(end=self.state[p]["z"], weight=1 - 1 / beta1)))
        super().train()  # type: ignore[no-untyped-call]  # schedulefree brings no types
        for p, y, unchanged in kept:
            p.copy_(torch.where(unchanged, y, p))

    def _averaging(self, train_mode: bool) -> list[tuple[torch.Tensor, float]]:
        """Return the parameters that have an average, with their beta1, of the groups in this mode."""
        groups = [group for group in self.param_groups if group["train_mode"] is train_mode]
        return [(p, group["betas"][0]) for group in groups for p in group["params"] if "z" in self.state.get(p, {})]


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
