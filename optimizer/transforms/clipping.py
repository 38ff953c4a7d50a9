"""Gradient clipping inside the step."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..types import ParamGroup
from .grad_scaler import loss_scale
from .shards import is_sharded, local_part, norm_over_shards
from .step_options import StepOptions
from .tracing import untraced


class Clips(Protocol):
    """An optimizer with `grad_clip_norm` among its step options."""

    param_groups: list[ParamGroup]
    step_options: StepOptions
    grad_norm: Tensor | None
    gradient_scale: Tensor | None


@torch.no_grad()
def total_norm(gradients: Iterable[Tensor], parameters: Iterable[Tensor] = ()) -> Tensor:
    """Return the joint L2 norm of `gradients`.

    Args:
        gradients: dense, sparse or sharded (DTensor), of any types, devices and meshes. A sparse one counts as the
            dense one that it stands for: several values of an element are added up first. Of sharded ones the norm of
            the whole counts: all processes call this with gradients of the same parameters, which sends one all_reduce.
            A plain one is equal on all processes.
        parameters: those of the gradients, also without one here, if processes may lack different ones: then all send
            the same.

    Returns:
        A plain scalar. Nothing waits for a device.
    """
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    like = [*parameters, *dense]
    if any(map(is_sharded, like)):
        return norm_over_shards(dense, like)
    return get_total_norm(dense) if dense else torch.zeros(())


@torch.no_grad()
def clip_to_norm(
    gradients: list[Tensor], max_norm: float, *, keep_overflowed: bool = False, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Scale `gradients` in place so that their joint L2 norm is at most `max_norm`, by torch's formula.

    Args:
        gradients: as for `total_norm`.
        max_norm: at least 0.
        keep_overflowed: whether gradients whose norm is not finite stay as they are, and do not become NaN or 0.
        parameters: as for `total_norm`.

    Returns:
        The norm before clipping, a scalar.
    """
    is_plain = not parameters and _is_plain(gradients)
    if is_plain:  # torch sorts by device and type, which is most of the cost for small parameters.
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    else:
        norm = total_norm(gradients, parameters)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if keep_overflowed:
        factor = torch.where(torch.isfinite(norm), factor, 1.0)
    if not is_plain:
        _scale(gradients, factor)
    elif not factor.is_cpu or factor != 1.0:  # to ask a device would be to wait for it
        torch._foreach_mul_(gradients, factor)
    return norm


def scales_in_step(optimizer: Optimizer) -> bool:
    """Return whether the coming step of `optimizer` may scale gradients as it reads them, and leave `grad` as it is.

    That needs a kernel that does so, and nobody else who looks at `grad`: step hooks of others, or GradScaler.
    """
    kernel = getattr(optimizer, "kernel", None)
    return (
        kernel is not None
        and kernel.scales_gradients
        and all(hook is clip_before_step for hook in optimizer._optimizer_step_pre_hooks.values())
        and not (optimizer._optimizer_step_post_hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)
        and getattr(optimizer, "found_inf", None) is None
        and loss_scale(optimizer) is None
    )


@torch.no_grad()
def scale_in_place(optimizer: Clips) -> None:
    """Multiply the gradients of `optimizer` with its `gradient_scale`, if it has one, and clear that."""
    scale = optimizer.gradient_scale
    if scale is not None:
        optimizer.gradient_scale = None
        _scale((p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None), scale)


def clip_before_step(
    optimizer: Clips, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Step-pre hook: scale the gradients of `optimizer` so that their joint L2 norm is at most its `grad_clip_norm`.

    The norm before is left as its `grad_norm`. A closure makes the gradients inside the step: they are clipped there.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _clip(optimizer)
        return None

    def clipped_closure() -> object:
        loss: object = closure()
        _clip(optimizer)
        return loss

    return (args[0], clipped_closure, *args[2:]), {key: kwargs[key] for key in kwargs if key != "closure"}


def _clip(optimizer: Clips) -> None:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = [p for p in held if p.grad is not None]
    if len(parameters) < len(held) and any(map(is_sharded, held)):
        parameters = held  # another process may have the gradients that are missing here
    elif not parameters:
        return
    scale = loss_scale(optimizer)
    max_norm = optimizer.step_options.grad_clip_norm
    assert max_norm is not None  # this hook is registered only with a norm
    if scale is None:
        norm = _clip_parameters(parameters, max_norm)
    else:
        norm = _clip_parameters(parameters, max_norm * float(scale)) / scale
    if torch.compiler.is_compiling():  # which drops what traced code sets on an optimizer
        untraced(_store_norm)(optimizer, norm)
    else:
        _store_norm(optimizer, norm)


def _clip_parameters(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if torch.compiler.is_compiling() and not any(gradient.is_sparse for gradient in gradients):
        return clip_grad_norm_(parameters, max_norm)
    return clip_to_norm(gradients, max_norm, parameters=parameters if len(gradients) < len(parameters) else ())


def _is_plain(gradients: list[Tensor]) -> bool:
    """Return whether the gradients are dense tensors of one type on the CPU or on one CUDA device."""
    if not gradients or not (gradients[0].is_cpu or gradients[0].is_cuda):
        return False
    dtype, device = gradients[0].dtype, gradients[0].device
    return all(type(g) is Tensor and g.dtype is dtype and not g.is_sparse and g.device == device for g in gradients)


def _scale(gradients: Iterable[Tensor], factor: Tensor) -> None:
    parts: dict[tuple[type, torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        values = local_part(gradient)
        values = values._values() if values.is_sparse else values  # also right before they are added up
        parts.setdefault((type(values), values.device, values.dtype), []).append(values)
    for (_, device, _), tensors in parts.items():
        torch._foreach_mul_(tensors, factor.to(device))


def _store_norm(optimizer: Clips, norm: Tensor) -> None:
    whole: Callable[[], Tensor] | None = getattr(norm, "full_tensor", None)  # torch's norm of DTensors is one, too
    optimizer.grad_norm = norm if whole is None else whole()
