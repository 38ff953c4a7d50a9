"""The schedule-free family of the schedulefree library: averaging stands in for a decay of the lr.

Source: Defazio et al. 2024, arXiv:2405.15682.
"""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from schedulefree.adamw_schedulefree import AdamWScheduleFree
from schedulefree.sgd_schedulefree import SGDScheduleFree
from torch import Tensor
from torch.optim import Optimizer

from optimizer.embedding import ScheduledOptimizer
from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory
from optimizer.validation import Beta, Count, NonNegativeNumber, Number, PositiveBeta, PositiveNumber

LATE_WEIGHTS = (
    "the module's weights were loaded after the optimizer's state, so that this update's gradient was taken at the"
    " averaged weights: training goes on, but not exactly as it would have. Load the module first."
)


class ExactAveraging(ScheduledOptimizer):
    """Mixin before a class of the library: `eval()` and back leads to the very bits that it left.

    The library goes from the training weights y to the averaged weights x and back by interpolation,
    which rounds: every evaluation would leave a trace in training. Here y is kept (as state "y", while
    in eval mode) and taken back for each weight that still is the x computed from it; a weight that was
    changed meanwhile goes the library's way.

    A new optimizer is in training mode, and one whose state was loaded: only evaluating and saving need a call.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which is in the mode of the others."""
        super().add_param_group(param_group)
        self.param_groups[-1]["train_mode"] = len(self.param_groups) == 1 or self.param_groups[0]["train_mode"]

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Restore state, options and position, and go on in training mode: parameters that are the averaged
        weights x of a state saved in eval mode become the training weights y. Load the module's weights first.
        """
        super().load_state_dict(state_dict, strict)
        kept = [(p, self.state[p]["y"], share) for p, share in self._averaging(False) if "y" in self.state[p]]
        late = [(p, y, share) for p, y, share in kept if not torch.equal(p, self.averaged(p, y, share))]
        if late:
            self.register_step_pre_hook(_back_to_training_weights(late))
        self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Switch the parameters to the averaged weights x, for evaluation and saving."""
        for p, _ in self._averaging(train_mode=True):
            self.state[p]["y"] = p.clone()
        super().eval()  # type: ignore[misc]  # the library's class comes next

    @torch.no_grad()
    def train(self) -> None:
        """Switch the parameters to the training weights y."""
        kept = []
        for p, share in self._averaging(train_mode=False):
            if "y" in self.state[p]:
                y = self.state[p].pop("y")
                kept.append((p, y, p == self.averaged(p, y, share)))
        super().train()  # type: ignore[misc]  # the library's class comes next
        for p, y, unchanged in kept:
            p.copy_(torch.where(unchanged, y, p))

    def averaged(self, p: Tensor, y: Tensor, share: float) -> Tensor:
        """Return the averaged weights x of the parameter `p`. y: its training weights. share: that of x in y."""
        return y.lerp(end=self.state[p]["z"], weight=1 - 1 / share)

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


def _back_to_training_weights(late: list[tuple[Tensor, Tensor, float]]) -> Callable[..., None]:
    """Return a step-pre hook that takes from x to y, once, weights that were loaded after the optimizer's state.

    late: parameter, its training weights y, and the share of x in them.
    """

    @torch.no_grad()
    def hook(optimizer: Any, args: Any, options: Any) -> None:
        found = [(p, y) for p, y, share in late if torch.equal(p, optimizer.averaged(p, y, share))]
        late.clear()
        for p, y in found:
            p.copy_(y)
        if found:
            warnings.warn(LATE_WEIGHTS, stacklevel=4)

    return hook


class ScheduleFreeFactory(FreeScheduleFactory):
    """Base of the family's factories: the options that all of it has."""

    weight_decay: NonNegativeNumber = 0.0
    """L2 penalty, taken at the training weights."""
    r: Number = 0.0
    """Power of the update count in the weights of the average."""
    weight_lr_power: Number = 2.0
    """Power of the largest lr so far in the weights of the average."""
    foreach: bool = True
    """Whether to run the multi-tensor implementation."""

    def _make(self, groups: list[dict[str, Any]], options: dict[str, Any]) -> ScheduledOptimizer:
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
