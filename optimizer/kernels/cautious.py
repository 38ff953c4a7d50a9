"""Cautious steps of Adam, AdamW and SGD in two passes over memory, without a copy of the parameters.

The first pass counts the coordinates in which update and gradient agree, the second updates them. The formula is
that of `optimizer.cautious`, which stays the reference.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.cautious import Caution, CautiousStep
from optimizer.kernels import compiled
from optimizer.kernels.blocks import Lists, Tensors, bundles
from optimizer.memory_layout import laid_out_as

Group = dict[str, Any]

TYPES = (torch.float32, torch.float64)
"""Types in which the mean of a mask can be taken."""


@Optimizer.profile_hook_step
def cautious_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's step, cautious."""
    return _stepped(optimizer, closure, _adam_group, compile_large=False)


@Optimizer.profile_hook_step
def compiled_cautious_adam_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """Adam's or AdamW's step, cautious, compiled for large parameters."""
    return _stepped(optimizer, closure, _adam_group, compile_large=True)


@Optimizer.profile_hook_step
def cautious_sgd_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """SGD's step, cautious."""
    return _stepped(optimizer, closure, _sgd_group, compile_large=False)


@Optimizer.profile_hook_step
def compiled_cautious_sgd_step(optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
    """SGD's step, cautious, compiled for large parameters."""
    return _stepped(optimizer, closure, _sgd_group, compile_large=True)


@torch.no_grad()
def _stepped(
    optimizer: Any, closure: Callable[[], Any] | None, step_group: Callable[..., None], compile_large: bool
) -> Any:
    if not all(map(_is_known, optimizer.param_groups)):
        return _by_reference(optimizer, closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    for group in optimizer.param_groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        step_group(optimizer.state, group, parameters, optimizer.caution, compile_large)
    return loss


def _is_known(group: Group) -> bool:
    """Return whether the steps of a group, which may have changed since the kernel was chosen, are still those here."""
    options = ("amsgrad", "capturable", "differentiable")
    if any(group.get(option) for option in options) or isinstance(group["lr"], Tensor):
        return False
    return all(p.dtype in TYPES and p.is_cpu and (p.grad is None or not p.grad.is_sparse) for p in group["params"])


def _by_reference(optimizer: Any, closure: Callable[[], Any] | None) -> Any:
    step = CautiousStep(optimizer.caution)
    step.before(optimizer, (), {})
    loss = type(optimizer)._base_step.__wrapped__(optimizer, closure)
    step.after(optimizer, (), {})
    return loss


def _adam_group(states: Any, group: Group, parameters: list[Tensor], caution: Caution, compile_large: bool) -> None:
    for p in parameters:
        if not states[p]:
            states[p]["step"] = torch.tensor(0.0)
            states[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            states[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        for name in ("exp_avg", "exp_avg_sq"):
            states[p][name] = laid_out_as(p, states[p][name])
    if parameters:
        torch._foreach_add_([states[p]["step"] for p in parameters], 1)
    rest, steps = [], []
    for p, gradient in zip(parameters, _upward(group, parameters), strict=True):
        tensors = p, gradient, states[p]["exp_avg"], states[p]["exp_avg_sq"]
        if compile_large and compiled.suits(*tensors):
            _run_compiled_adam(group, tensors, float(states[p]["step"]), caution)
        else:
            rest.append(tensors)
            steps.append(states[p]["step"])
    for indices, blocks in bundles(rest):
        counted = [_agreeing_adam(group, block) for block in blocks]
        scales = _scales([rest[index][0] for index in indices], counted, caution)
        for block in blocks:
            _update_adam(group, block, [steps[index] for index in indices], scales)


def _agreeing_adam(group: Group, block: Lists) -> list[Tensor]:
    """Return, for each tensor, in how many coordinates the coming average and the gradient agree in sign."""
    p, gradient, average, _ = block
    coming = torch._foreach_lerp(average, _with_penalty(group, p, gradient), 1.0 - group["betas"][0])
    return _agreeing(coming, gradient)


def _update_adam(group: Group, block: Lists, steps: list[Tensor], scales: list[float]) -> None:
    p, gradient, average, square = block
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    # torch's own kernel on parameters of zero leaves the update in them: exactly Adam's.
    update = [torch.zeros_like(x) for x in p]
    torch._fused_adam_(
        update, _with_penalty(group, p, gradient), average, square, [], steps,
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
    )  # fmt: skip
    agree = _mask(torch._foreach_mul(average, gradient))
    if _kept(group) != 1.0:
        torch._foreach_mul_(p, _kept(group))
    torch._foreach_addcmul_(p, update, agree, scales)


def _run_compiled_adam(group: Group, tensors: tuple[Tensor, ...], step: float, caution: Caution) -> None:
    beta1, beta2 = group["betas"]
    size = float(group["lr"]) / (1.0 - beta1**step)
    numbers = [1.0 - beta1, beta2, group["eps"], math.sqrt(1.0 - beta2**step), size, _kept(group), _penalty(group)]
    numbers += [caution.min_mean, caution.eps]
    compiled.run(compiled.cautious_adam, tensors, numbers, _penalty(group) != 0)


def _sgd_group(states: Any, group: Group, parameters: list[Tensor], caution: Caution, compile_large: bool) -> None:
    first = {p for p in parameters if group["momentum"] and states[p].get("momentum_buffer") is None}
    for p in first:
        states[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
    rest: dict[bool, list[Any]] = {True: [], False: []}
    for p, gradient in zip(parameters, _upward(group, parameters), strict=True):
        tensors = (p, gradient, states[p]["momentum_buffer"]) if group["momentum"] else (p, gradient)
        if compile_large and group["momentum"] and compiled.suits(*tensors):
            _run_compiled_sgd(group, tensors, p in first, caution)
        else:
            rest[p in first].append(tensors)
    for begins, some in rest.items():
        for indices, blocks in bundles(some):
            for block in blocks:
                _move_buffers(group, block, begins)
            counted = [_agreeing(_sgd_direction(group, block), block[1]) for block in blocks]
            scales = _scales([some[index][0] for index in indices], counted, caution)
            for block in blocks:
                direction = _sgd_direction(group, block)
                agree = _mask(torch._foreach_mul(direction, block[1]))
                torch._foreach_addcmul_(block[0], direction, agree, [-float(group["lr"]) * scale for scale in scales])


def _move_buffers(group: Group, block: Lists, begins: bool) -> None:
    if not group["momentum"]:
        return
    p, gradient, buffer = block
    torch._foreach_mul_(buffer, group["momentum"])
    # The first buffer is the gradient, not dampened.
    torch._foreach_add_(buffer, _with_penalty(group, p, gradient), alpha=1.0 if begins else 1.0 - group["dampening"])


def _sgd_direction(group: Group, block: Lists) -> Tensors:
    if not group["momentum"]:
        return _with_penalty(group, block[0], block[1])
    if not group["nesterov"]:
        return block[2]
    return torch._foreach_add(_with_penalty(group, block[0], block[1]), block[2], alpha=group["momentum"])


def _run_compiled_sgd(group: Group, tensors: tuple[Tensor, ...], begins: bool, caution: Caution) -> None:
    taken = 1.0 if begins else 1.0 - group["dampening"]
    numbers = [group["momentum"], taken, float(group["lr"]), _penalty(group), caution.min_mean, caution.eps]
    compiled.run(compiled.cautious_sgd, tensors, numbers, _penalty(group) != 0, group["nesterov"])


def _kept(group: Group) -> float:
    """Return what decoupled weight decay leaves of the parameters."""
    return 1.0 - float(group["lr"]) * group["weight_decay"] if group.get("decoupled_weight_decay") else 1.0


def _penalty(group: Group) -> float:
    """Return the factor of the L2 penalty."""
    return 0.0 if group.get("decoupled_weight_decay") else float(group["weight_decay"])


def _with_penalty(group: Group, p: list[Tensor], gradient: list[Tensor]) -> Tensors:
    return torch._foreach_add(gradient, p, alpha=_penalty(group)) if _penalty(group) else gradient


def _upward(group: Group, parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of what is to become less."""
    gradients: Any = [laid_out_as(p, p.grad) for p in parameters]  # type: ignore[arg-type]  # they have one
    return list(torch._foreach_neg(gradients)) if group["maximize"] and gradients else gradients


def _agreeing(direction: Tensors, gradient: list[Tensor]) -> list[Tensor]:
    return [mask.sum() for mask in _mask(torch._foreach_mul(direction, gradient))]


def _mask(products: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return 1 where a product is positive, else 0, in its place."""
    for product in products:
        product.gt_(0)
    return products


def _scales(parameters: list[Tensor], counted: list[list[Tensor]], caution: Caution) -> list[float]:
    """Return what each parameter's step is multiplied with. counted: of each block, each tensor's agreeing ones."""
    counts = torch.stack([torch.stack(block) for block in counted]).sum(0).tolist()
    means = [count / max(1, p.numel()) for count, p in zip(counts, parameters, strict=True)]
    return [1.0 / (max(mean, caution.min_mean) + caution.eps) for mean in means]
