"""The schedule-free family of the schedulefree library: averaging in place of a decay of the lr.

Source: Defazio et al. 2024, arXiv:2405.15682.
"""

import warnings
from typing import ClassVar

import torch
from schedulefree.adamw_schedulefree import AdamWScheduleFree
from schedulefree.sgd_schedulefree import SGDScheduleFree
from torch import Tensor
from torch.optim import Optimizer

from ..config.fields import Beta, Count, NonNegativeNumber, Number, PositiveBeta, PositiveNumber
from ..scheduling.optimizer import ScheduledOptimizer
from ..types import Options, ParamGroup, StateDict
from .base import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory

LATE_WEIGHTS = (
    "this update's gradient was computed at the averaged weights, as the module was loaded after the optimizer's state:"
    " training continues, but not exactly as without the load. Load the module first, or call train() after both."
)


class ExactAveraging(ScheduledOptimizer):
    """Mixin before a class of the library: `eval()` and `train()` restore the training weights bit for bit.

    The library computes the averaged weights x from the training weights y, and y from x again, by interpolation. That
    rounds, so that every evaluation would change training. Here y is kept in eval mode (as state "y") and restored for
    each weight that is still the x computed from it. For a weight that was changed meanwhile, y is interpolated.

    An optimizer that is new, or whose state was loaded, is in training mode: only evaluating and saving need a call.
    """

    _trains_at_step = False  # after a load that could not switch the parameters to y yet

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a group, in the mode of the others."""
        super().add_param_group(param_group)
        self.param_groups[-1]["train_mode"] = len(self.param_groups) == 1 or self.param_groups[0]["train_mode"]

    def load_state_dict(self, state_dict: StateDict, strict: bool = True) -> None:
        """Restore state, options and position, ready to train.

        Parameters that are the averaged weights x of a state saved in eval mode become the training weights y. If they
        are not, because the module's weights are loaded later, train() or the first step does it.
        """
        super().load_state_dict(state_dict, strict)
        saved_in_eval = self._averaging(train_mode=False)
        if all("y" in self.state[p] and self._unchanged(p, share).all() for p, share in saved_in_eval):
            self.train()
        else:
            self._trains_at_step = True
            self.register_step_pre_hook(_train_after_load)

    @torch.no_grad()
    def eval(self) -> None:
        """Switch the parameters to the averaged weights x, for evaluation and saving."""
        self._trains_at_step = False
        for p, _ in self._averaging(train_mode=True):
            self.state[p]["y"] = p.clone()
        super().eval()  # type: ignore[misc]  # the library's class comes next

    @torch.no_grad()
    def train(self) -> None:
        """Switch the parameters to the training weights y."""
        self._trains_at_step = False
        kept = []
        for p, share in self._averaging(train_mode=False):
            if "y" in self.state[p]:
                unchanged = self._unchanged(p, share)
                kept.append((p, self.state[p].pop("y"), unchanged))
        super().train()  # type: ignore[misc]  # the library's class comes next
        for p, y, unchanged in kept:
            p.copy_(torch.where(unchanged, y, p))

    def _unchanged(self, p: Tensor, share: float) -> Tensor:
        """Return a mask of where `p` is its kept y, or the x computed from it. share: that of x in y."""
        y: Tensor = self.state[p]["y"]
        return (p == y.lerp(end=self.state[p]["z"], weight=1 - 1 / share)) | (p == y)

    def _averaging(self, train_mode: bool) -> list[tuple[Tensor, float]]:
        """Return the parameters that have an average, with its share in y, of the groups in this mode."""
        groups = [group for group in self.param_groups if group["train_mode"] is train_mode]
        shares = [group["betas"][0] if "betas" in group else group["momentum"] for group in groups]
        return [
            (p, share)
            for group, share in zip(groups, shares, strict=True)
            for p in group["params"]
            if "z" in self.state.get(p, {})
        ]


def _train_after_load(optimizer: Optimizer, args: object, options: object) -> None:
    if isinstance(optimizer, ExactAveraging) and optimizer._trains_at_step:
        optimizer.train()
        warnings.warn(LATE_WEIGHTS, stacklevel=4)


class ScheduleFreeFactory(FreeScheduleFactory):
    """Base of the family's factories: the options that all of its classes have."""

    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty, taken at the training weights."""
    r: Number = 0.0
    """Power of the update count in the weights of the average."""
    weight_lr_power: Number = 2.0
    """Power of the largest lr so far in the weights of the average."""
    foreach: bool = True
    """Whether to run the multi-tensor implementation."""

    def _make(self, groups: list[ParamGroup], options: Options) -> ScheduledOptimizer:
        reason = "moves the momentum, which here is the average's share in the training weights"
        if self.schedule.moves_momentum():
            raise ValueError(f"schedule: {self.schedule.key} {reason}. Set its cycle_momentum to false.")
        for option in {"beta1", "momentum"} & self.option_schedules.keys():
            raise ValueError(f"option_schedules.{option}: {reason}")
        return super()._make(groups, options)


class ExactAdamWScheduleFree(ExactAveraging, AdamWScheduleFree):
    """schedulefree.AdamWScheduleFree with `ExactAveraging`."""


class ExactSGDScheduleFree(ExactAveraging, SGDScheduleFree):
    """schedulefree.SGDScheduleFree with `ExactAveraging`."""


@OPTIMIZER_BUILDER_REGISTRY.register("schedule_free_adamw")
class AdamWScheduleFreeFactory(ScheduleFreeFactory):
    """schedulefree.AdamWScheduleFree: AdamW without a decay; eval() to evaluate and save, then train()."""

    optimizer_class: ClassVar[type[Optimizer]] = ExactAdamWScheduleFree

    lr: PositiveNumber = 0.0025
    """Learning rate."""
    betas: tuple[PositiveBeta, Beta] = (0.9, 0.999)
    """Share of the average in the training weights; decay rate of the running mean of the squared gradient."""
    eps: NonNegativeNumber = 1e-8
    """Added to the denominator."""
    warmup_steps: Count = 0
    """Updates of the optimizer's own linear warm-up."""


@OPTIMIZER_BUILDER_REGISTRY.register("schedule_free_sgd")
class SGDScheduleFreeFactory(ScheduleFreeFactory):
    """schedulefree.SGDScheduleFree: SGD without a decay; eval() to evaluate and save, then train()."""

    optimizer_class: ClassVar[type[Optimizer]] = ExactSGDScheduleFree

    lr: PositiveNumber = 1.0
    """Learning rate."""
    momentum: PositiveBeta = 0.9
    """Share of the average in the training weights."""
    warmup_steps: Count = 0
    """Updates of the optimizer's own linear warm-up."""
