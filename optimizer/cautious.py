"""Cautious updates: only coordinates in which update and gradient agree move.

With u the update's direction (without decoupled weight decay) and g the gradient, m = (u·g > 0), the step is
u·m / (mean(m) + eps), the mean over the whole parameter. Source: Liang et al. 2024, arXiv:2411.16085,
Algorithm 1. This is the reference: it works for any optimizer, and holds a copy of the parameters during a step.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.combined import Combined
from optimizer.memory_layout import lay_out

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

DECOUPLED = (torch.optim.Muon, torch.optim.Adafactor)
"""Classes of PyTorch's whose weight decay is decoupled, and which do not say so in their groups."""


ALREADY = "the optimizer is cautious already"


@dataclass(frozen=True)
class Caution:
    """eps: added to the mean of the mask. min_mean: what the mean is at least (peers: 1e-3, with eps 0)."""

    eps: float = 1e-8
    min_mean: float = 0.0


def CautiousOptimizer(base: AnyOptimizer, eps: float = 1e-8, min_mean: float = 0.0) -> AnyOptimizer:  # noqa: N802 the name that users know
    """Make the steps of `base`, any optimizer, cautious, and return it; it stays what it is.

    A copy of a plain optimizer of PyTorch's loses its hooks, and so this one; those of innerstep's keep it.
    Raises ValueError as `check_caution` does, for values that would divide by zero, and the second time.
    """
    if eps < 0 or min_mean < 0 or eps + min_mean == 0:
        raise ValueError(f"eps and min_mean must be >= 0 and one of them > 0; got {eps} and {min_mean}")
    check_caution(base)
    caution = Caution(eps, min_mean)
    if hasattr(base, "make_cautious"):
        base.make_cautious(caution)
        return base
    if any(
        isinstance(getattr(hook, "__self__", None), CautiousStep) for hook in base._optimizer_step_pre_hooks.values()
    ):
        raise ValueError(ALREADY)
    step = CautiousStep(caution)
    base.register_step_pre_hook(step.before)
    base.register_step_post_hook(step.after)
    return base


def check_caution(optimizer: Optimizer) -> None:
    """Raise ValueError if steps of `optimizer` have no direction that a gradient could agree with, or it is
    not known which part of a step is weight decay."""
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam) or callable(getattr(optimizer, "eval", None)):
        raise ValueError(f"{name} cannot be made cautious: its step is not one direction for one dense gradient")
    for group in optimizer.param_groups:
        _is_decoupled(optimizer, group)


class CautiousStep:
    """The hooks around a step, and the parameters as they were before it."""

    def __init__(self, caution: Caution) -> None:
        self._caution = caution
        self._before: dict[Tensor, tuple[Tensor, Tensor | None]] = {}

    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Keep the parameters as they are, and the gradients, which some optimizers drop in their step."""
        lay_out(optimizer)
        self._before = {p: (p.detach().clone(), p.grad) for group in optimizer.param_groups for p in group["params"]}

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Make the step that was taken a cautious one."""
        before, self._before = self._before, {}
        found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
        if found_inf is not None and torch.any(found_inf):
            return  # a fused step under GradScaler that moved nothing
        for group in optimizer.param_groups:
            keep = 1.0 - _decay(optimizer, group)
            sign = -1.0 if group.get("maximize") else 1.0
            for p in group["params"]:
                old, gradient = before[p]
                gradient = gradient if p.grad is None else p.grad  # with a closure they are made in the step
                if gradient is not None:
                    decayed = old * keep
                    step = decayed - p
                    mask = step * gradient * sign > 0
                    # In half precision eps would be 0.
                    mean = mask.to(torch.promote_types(p.dtype, torch.float32)).mean()
                    p.copy_(decayed - step * mask / (mean.clamp(min=self._caution.min_mean) + self._caution.eps))


def _decay(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """Return the share of the parameters that decoupled weight decay takes off in a step."""
    if not _is_decoupled(optimizer, group):
        return 0.0
    lr = 1.0 if group.get("fixed_decay") else float(group["lr"])  # pytorch_optimizer's way to leave the lr out
    return lr * float(group["weight_decay"])


def _is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    if not group.get("weight_decay"):
        return False
    for flag in ("decoupled_weight_decay", "weight_decouple"):  # PyTorch's, pytorch_optimizer's
        if flag in group:
            return bool(group[flag])
    owner = optimizer.part_of(group) if isinstance(optimizer, Combined) else optimizer
    if isinstance(owner, DECOUPLED):
        return True
    if any(base.__module__.startswith("torch.optim.") for base in type(owner).__mro__ if base is not Optimizer):
        return False
    raise ValueError(
        f"{type(owner).__name__} does not say whether its weight decay is decoupled, which a cautious step leaves out:"
        " set weight_decay to 0"
    )
