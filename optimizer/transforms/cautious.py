"""Cautious updates: only coordinates in which update and gradient agree move.

With u the update's direction (without decoupled weight decay) and g the gradient, m = (u·g > 0), the step is
u·m / (mean(m) + eps), the mean over the whole parameter. Source: Liang et al. 2024, arXiv:2411.16085,
Algorithm 1. This is the reference: it works for any optimizer, whose step is taken in float64 on copies of
parameters, gradients and state. For float64 parameters a step below 1e-16 of its weight is lost, as no wider type
holds it; the steps in blocks and the compiled ones never subtract weights.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..types import SwitchesWeights
from .closures import after_closure
from .float64_step import in_float64, keep_saved, put_back, why_not_in_float64
from .grad_scaler import has_overflowed
from .local_shards import active_shards, on_local_shards
from .memory_layout import check_memory, parameter_labels
from .shards import check_placement
from .step_hooks import without_hooks
from .weight_decay import decayed_share, is_decoupled

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

ALREADY = "the optimizer is cautious already"


@dataclass(frozen=True)
class Caution:
    """How steps are made cautious.

    Attributes:
        eps: added to the mean of the mask.
        min_mean: the mean is clamped to at least this (peers: 1e-3, with eps 0).
    """

    eps: float = 1e-8
    min_mean: float = 0.0


def CautiousOptimizer(base: AnyOptimizer, eps: float = 1e-8, min_mean: float = 0.0) -> AnyOptimizer:  # noqa: N802 the name that users know
    """Make the steps of an optimizer cautious.

    A copy of a plain PyTorch optimizer is not cautious, as it loses its hooks; a copy of one of innerstep's is.

    Args:
        base: any optimizer.
        eps: added to the mean of the mask.
        min_mean: the mean is clamped to at least this.

    Returns:
        `base` itself, of the same class.

    Raises:
        ValueError: as `check_caution` does; for values that would divide by zero; if `base` is cautious already.
    """
    if eps < 0 or min_mean < 0 or eps + min_mean == 0:
        raise ValueError(f"eps and min_mean must be >= 0 and one of them > 0; got {eps} and {min_mean}")
    check_caution(base)
    caution = Caution(eps, min_mean)
    if hasattr(base, "make_cautious"):
        base.make_cautious(caution)
        return base
    before = base.step
    if getattr(before, "_is_cautious", False):
        raise ValueError(ALREADY)
    plain = without_hooks(type(base).step)

    def step(optimizer: Optimizer, *args: object, **options: object) -> object:
        optimizer.__dict__["_opt_called"] = True  # torch's schedulers look for it to check the order of the calls
        return step_after_closure(optimizer, caution, plain, args, options)

    hooked = Optimizer.profile_hook_step(step)
    hooked.__dict__["_is_cautious"] = True
    if hasattr(before, "_wrapped_by_lr_sched"):  # torch's mark on a step that a scheduler counts already
        hooked.__dict__["_wrapped_by_lr_sched"] = True
    base.step = MethodType(hooked, base)  # type: ignore[method-assign]
    register_exact_loads(base)
    return base


def step_after_closure(
    optimizer: Optimizer,
    caution: Caution,
    step: Callable[..., object],
    args: tuple[Any, ...],
    options: dict[str, object],
) -> object:
    """Evaluate the closure among the arguments, if there is one, at the parameters; then take `step` cautiously."""

    def update(*rest: object, **others: object) -> object:
        with on_local_shards(optimizer) if check_placement(optimizer) else nullcontext():
            return cautious_step(optimizer, caution, lambda: step(optimizer, *rest, **others))

    return after_closure(update, args, options)


def register_exact_loads(optimizer: Optimizer) -> None:
    """Let half-precision parameters' state, which is float32, be loaded as it was saved."""
    optimizer.register_load_state_dict_pre_hook(keep_saved)
    optimizer.register_load_state_dict_post_hook(put_back)


def check_caution(optimizer: Optimizer) -> None:
    """Raise ValueError if the steps of `optimizer` cannot be made cautious.

    That is so if a step has no direction that a gradient could agree with, or if it is unknown which part of it is
    weight decay.
    """
    name = type(optimizer).__name__
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    other = next((p for p in parameters if not p.is_floating_point()), None)
    if other is not None:
        raise ValueError(
            f"{name} cannot be made cautious over parameters of {other.dtype}: step and gradient agree by their signs,"
            " which only real numbers have. Train them by an optimizer without use_cautious_optimizer"
        )
    if isinstance(optimizer, torch.optim.LBFGS | torch.optim.SparseAdam | SwitchesWeights):
        raise ValueError(f"{name} cannot be made cautious: its step is not one direction for one dense gradient")
    for group in optimizer.param_groups:
        is_decoupled(optimizer, group)  # raises if that is unknown
    if any(p.dtype != torch.float64 for p in parameters):
        reason = why_not_in_float64(optimizer)
        if reason is not None:
            raise ValueError(f"{name} cannot be made cautious: {reason}")


@torch.no_grad()
def cautious_step(optimizer: Optimizer, caution: Caution, step: Callable[[], object]) -> object:
    """Take a cautious step.

    It is computed in float64 from the gradients as they are before it, and each weight is rounded once. A step that
    GradScaler skips moves nothing.

    Args:
        optimizer: any optimizer that `check_caution` accepts.
        caution: eps and the least mean.
        step: the class's step, without a closure.

    Returns:
        The result of `step`.

    Raises:
        RuntimeError: for sparse gradients and for tensors whose memory was freed.
    """
    for group in optimizer.param_groups:
        for p, name in zip(group["params"], parameter_labels(group), strict=True):
            _check_tensors(p, name)
    if has_overflowed(optimizer):
        return None
    with in_float64(optimizer) as moved:
        result = step()
    means = _means_over_whole(optimizer, moved)
    for p, keep, sign in _with_gradient(optimizer):
        decayed, difference, mask = _masked_step(p, moved.pop(p), keep, sign)
        mean = means[p] if p in means else mask.to(torch.float64).mean()
        p.copy_(decayed - difference * mask / (mean.clamp(min=caution.min_mean) + caution.eps))
    return result


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[Tensor, float, float]]:
    """Yield each parameter that has a gradient, the share that decay leaves of it, and -1 to maximize, else 1."""
    for group in optimizer.param_groups:
        keep, sign = 1.0 - decayed_share(optimizer, group), -1.0 if group.get("maximize") else 1.0
        for p in group["params"]:
            if p.grad is not None:
                yield p, keep, sign


def _masked_step(p: Tensor, moved: Tensor, keep: float, sign: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the decayed `p`, the step that the class takes from there to `moved`, and where the gradient agrees."""
    decayed = p.detach().to(torch.float64) * keep
    step = decayed - moved.detach()
    return decayed, step, step.sign() * p.grad.sign() * sign > 0  # type: ignore[union-attr]  # products of small numbers come to 0


def _means_over_whole(optimizer: Optimizer, moved: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Return the mean of the mask over the whole of each parameter that is stepped on its shards: one all_reduce."""
    shards = active_shards(optimizer)
    if shards is None:
        return {}
    rows = [row for row in _with_gradient(optimizer) if shards.is_shard(row[0])]
    counts = [_masked_step(p, moved[p], keep, sign)[2].sum().reshape(1) for p, keep, sign in rows]
    summed = shards.summed([p for p, _, _ in rows], counts).to(torch.float64).unbind()
    return {p: count / shards.whole_size(p) for (p, _, _), count in zip(rows, summed, strict=True)}


def _check_tensors(p: Tensor, name: str) -> None:
    if p.grad is not None and p.grad.layout != torch.strided:
        raise RuntimeError(
            "use_cautious_optimizer: a cautious step does not support sparse gradients, as its mean is over the whole"
            " parameter. Make them dense (nn.Embedding(sparse=False)) or set use_cautious_optimizer: false."
        )
    for tensor, what in ((p, name), (p.grad, f"the gradient of {name}")):
        if tensor is not None:
            check_memory(tensor, what)
