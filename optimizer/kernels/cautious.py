"""Cautious steps of Adam, AdamW and SGD in blocks, without a copy of the parameters.

The formula is that of `transforms.cautious`, which stays the reference. Parameters in half precision are stepped in
float32, with such moments, and rounded once. A parameter's steps wait, in memory as large
as the largest parameter, until it is known how many of its coordinates agree.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.cautious import Caution
from ..transforms.float64_step import HALVES
from ..transforms.memory_layout import laid_out_as
from ..types import ParamGroup
from .blocks import Lists, Tensors, bundles
from .moments import MOMENTS, adam_state, count, moment, moment_dtype
from .stepping import by_group, unsupported_group

BUFFER = ("momentum_buffer",)
"""SGD's, as its state has it."""

Direction = Callable[[Lists, list[Tensor], list[int]], Tensors]
"""Updates the state of a block's rows; returns the directions of their steps, which may use the memory given."""


def sgd_buffer(optimizer: ScheduledOptimizer, p: Tensor) -> tuple[Tensor, bool]:
    """Return the momentum buffer of `p`, and whether this is its first step."""
    state = optimizer.state[p]
    is_first = state.get("momentum_buffer") is None
    if is_first:
        dtype = moment_dtype(optimizer, p)
        state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    state["momentum_buffer"] = moment(optimizer, p, state["momentum_buffer"])
    return state["momentum_buffer"], is_first


def penalty_of(group: ParamGroup) -> float:
    """Return the factor of the L2 penalty."""
    return 0.0 if group.get("decoupled_weight_decay") else float(group["weight_decay"])


def decay_of(group: ParamGroup) -> float:
    """Return the decoupled weight decay."""
    return float(group["weight_decay"]) if group.get("decoupled_weight_decay") else 0.0


def _unsupported_reason(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    return unsupported_group(group, {"cpu": (torch.float32, torch.float64, *HALVES)})


def _step_adam(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    if not parameters:
        return
    states = [adam_state(optimizer, p) for p in parameters]
    steps = [step for step, _, _ in states]
    count(steps)
    beta1, beta2 = group["betas"]

    def direction(block: Lists, room: list[Tensor], indices: list[int]) -> Tensors:
        # torch's own kernel, at an lr of -1 on parameters of zero, leaves the direction in them: exactly Adam's.
        torch._foreach_zero_(room)
        torch._fused_adam_(
            room, _with_penalty(group, block), block[2], block[3], [], [steps[index] for index in indices],
            lr=-1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        return room

    rows = [
        (p, gradient, average, square)
        for p, gradient, (_, average, square) in zip(parameters, _upward(group, parameters), states, strict=True)
    ]
    _move(rows, direction, optimizer, group)


def _step_sgd(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    rows: dict[bool, list[tuple[Tensor, ...]]] = {True: [], False: []}
    for p, gradient in zip(parameters, _upward(group, parameters), strict=True):
        if group["momentum"]:
            buffer, is_first = sgd_buffer(optimizer, p)
            rows[is_first].append((p, gradient, buffer))
        else:
            rows[False].append((p, gradient))
    for is_first, some in rows.items():
        # The first buffer is the gradient, not dampened.
        taken = 1.0 if is_first else 1.0 - group["dampening"]

        def direction(block: Lists, room: list[Tensor], indices: list[int], taken: float = taken) -> Tensors:
            whole = _with_penalty(group, block)
            if not group["momentum"]:
                return whole
            torch._foreach_mul_(block[2], group["momentum"])
            torch._foreach_add_(block[2], whole, alpha=taken)
            return torch._foreach_add(whole, block[2], alpha=group["momentum"]) if group["nesterov"] else block[2]

        _move(some, direction, optimizer, group)


def _move(
    rows: Sequence[tuple[Tensor, ...]], direction: Direction, optimizer: ScheduledOptimizer, group: ParamGroup
) -> None:
    """Move parameters against their directions, where these agree with the gradients.

    Args:
        rows: for each parameter: the parameter, its gradient, and the state that `direction` works on.
        direction: computes the directions of the steps.
        optimizer: has the caution.
        group: the parameters' group.
    """
    caution = optimizer.step_options.caution
    assert caution is not None  # or another kernel would have been chosen
    lr, scratch = float(group["lr"]), None
    is_half = bool(rows) and rows[0][0].dtype in HALVES
    for indices, blocks in bundles(rows):
        if len(blocks) > 1 and scratch is None:
            scratch = torch.empty(max(row[0].numel() for row in rows), dtype=_wide_type(rows[0][0]))
        rooms, counted = _rooms(blocks, scratch), []
        for block, room in zip(blocks, rooms, strict=True):
            widened = tuple([_wide(x) for x in column] for column in block) if is_half else block
            directions = direction(widened, room, indices)
            products = torch._foreach_sign(widened[1])  # with the gradients themselves, small ones would come to 0
            torch._foreach_mul_(products, directions)
            for step, product, place in zip(directions, products, room, strict=True):
                # The derivative of relu: 0 where the product is not positive, elsewhere the step.
                torch.ops.aten.threshold_backward.grad_input(step, product, 0, grad_input=place)
            counted.append([product.gt_(0).sum() for product in products])
        scales = _scales([rows[index][0] for index in indices], counted, caution)
        for block, room in zip(blocks, rooms, strict=True):
            for p, step, scale in zip(block[0], room, scales, strict=True):
                # In one pass over memory: p - lr * scale * (step + decay / scale * p).
                whole = _wide(p) if is_half else p
                torch._fused_sgd_(
                    [whole], [step], [], lr=lr * scale, weight_decay=decay_of(group) / scale, momentum=0.0,
                    dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip
                if is_half:
                    p.copy_(whole)


def _wide_type(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in HALVES else p.dtype


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_type(tensor))


def _rooms(blocks: list[Lists], scratch: Tensor | None) -> list[list[Tensor]]:
    """Return memory for the steps of each block: those of one large parameter in `scratch`."""
    if len(blocks) == 1 or scratch is None:
        return [[torch.empty_like(p, dtype=_wide_type(p)) for p in block[0]] for block in blocks]
    sizes = [block[0][0].numel() for block in blocks]
    return [[room] for room in torch.split(scratch[: sum(sizes)], sizes)]


def _scales(parameters: list[Tensor], counted: list[list[Tensor]], caution: Caution) -> list[float]:
    """Return the factor on each parameter's step. counted: for each block, the agreeing coordinates of each tensor."""
    counts = torch.stack([torch.stack(block) for block in counted]).sum(0).tolist()
    means = [agreeing / max(1, p.numel()) for agreeing, p in zip(counts, parameters, strict=True)]
    # Where nothing agrees, the steps are 0, and eps may be next to 0.
    return [1.0 / (max(mean, caution.min_mean) + caution.eps) if mean else 1.0 for mean in means]


def _with_penalty(group: ParamGroup, block: Lists) -> Tensors:
    return torch._foreach_add(block[1], block[0], alpha=penalty_of(group)) if penalty_of(group) else block[1]


def _upward(group: ParamGroup, parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients to go down: negated if the group maximizes."""
    gradients = [laid_out_as(p, p.grad) for p in parameters]  # type: ignore[arg-type]  # they have one
    return list(torch._foreach_neg(gradients)) if group["maximize"] and gradients else gradients


KERNELS = (
    Kernel(
        name="cautious_adam",
        shown_as="blocks",
        classes=(Adam, AdamW),
        implementations=("auto",),
        step=by_group(_step_adam),
        unsupported_reason=_unsupported_reason,
        state_names=MOMENTS,
        cautious=True,
    ),
    Kernel(
        name="cautious_sgd",
        shown_as="blocks",
        classes=(SGD,),
        implementations=("auto",),
        step=by_group(_step_sgd),
        unsupported_reason=_unsupported_reason,
        state_names=BUFFER,
        cautious=True,
    ),
)
