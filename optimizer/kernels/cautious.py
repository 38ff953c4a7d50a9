"""Cautious steps of Adam, AdamW and SGD in blocks, without a copy of the parameters.

A step for a parameter theta with the gradient g, without decoupled decay and with g + penalty * theta in the moments:

    u     = m_hat / (sqrt(v_hat) + eps)             Adam's direction, as in `kernels.fused`; or SGD's:
    b     = mu * b + (1 - dampening) * g            momentum_buffer, at first g
    u     = g + mu * b  or  b                       with and without Nesterov's momentum
    mask  = 1 where u * g > 0, else 0
    scale = 1 / (max(mean(mask), min_mean) + eps)   the mean over the whole parameter
    theta = theta - lr * decay * theta - lr * scale * mask * u

Source: Liang et al. 2024, arXiv:2411.16085, Algorithm 1. The reference is `transforms.cautious`. Parameters in half
precision are stepped in float32, with moments in float32, and rounded once. A parameter's steps wait, in memory as
large as the largest parameter, until all of its agreeing coordinates are counted. On shards the steps of all parameters
wait, in memory as large as the local shards, until the counts of all processes are added up.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.cautious import Caution
from ..transforms.float64_step import HALVES
from ..transforms.local_shards import Waiting, active_shards, move_waiting
from ..transforms.memory_layout import with_strides_of
from ..transforms.weight_decay import decoupled_decay, l2_penalty
from ..types import MOMENTS, ParamGroup
from .blocks import Lists, Tensors, bundles
from .moments import adam_state, adapted_moment, count_step, moment_dtype
from .stepping import by_group, unsupported_group

BUFFER = ("momentum_buffer",)
"""The entry of SGD's state that has its parameter's shape."""

Direction = Callable[[Lists, list[Tensor], list[int]], Tensors]
"""Updates the state of a block's rows; returns the directions of their steps, perhaps in the given memory."""


def sgd_buffer(optimizer: ScheduledOptimizer, p: Tensor) -> tuple[Tensor, bool]:
    """Return the momentum buffer of `p`, and whether this is its first step."""
    state, (name,) = optimizer.state[p], BUFFER
    is_first = state.get(name) is None
    if is_first:
        dtype = moment_dtype(optimizer, p)
        state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    state[name] = adapted_moment(optimizer, p, state[name])
    return state[name], is_first


def _unsupported_reason(optimizer: ScheduledOptimizer, group: ParamGroup) -> str | None:
    return unsupported_group(group, {"cpu": (torch.float32, torch.float64, *HALVES)})


def _step_adam(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    if not parameters:
        return
    states = [adam_state(optimizer, p) for p in parameters]
    steps = [step for step, _, _ in states]
    count_step(steps)
    beta1, beta2 = group["betas"]

    def direction(block: Lists, memory: list[Tensor], indices: list[int]) -> Tensors:
        # torch's own kernel, at an lr of -1 on parameters of zero, leaves the direction in them: exactly Adam's.
        torch._foreach_zero_(memory)
        torch._fused_adam_(
            memory, _with_penalty(group, block), block[2], block[3], [], [steps[index] for index in indices],
            lr=-1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        return memory

    gradients = _loss_gradients(group, parameters)
    rows = [
        (p, gradient, average, square)
        for p, gradient, (_, average, square) in zip(parameters, gradients, states, strict=True)
    ]
    _move(rows, direction, optimizer, group)


def _step_sgd(optimizer: ScheduledOptimizer, group: ParamGroup, parameters: list[Tensor]) -> None:
    rows: dict[bool, list[tuple[Tensor, ...]]] = {True: [], False: []}
    for p, gradient in zip(parameters, _loss_gradients(group, parameters), strict=True):
        if group["momentum"]:
            buffer, is_first = sgd_buffer(optimizer, p)
            rows[is_first].append((p, gradient, buffer))
        else:
            rows[False].append((p, gradient))
    for is_first, rows_of_kind in rows.items():
        # The first buffer is the gradient, not dampened.
        weight = 1.0 if is_first else 1.0 - group["dampening"]

        def direction(block: Lists, memory: list[Tensor], indices: list[int], weight: float = weight) -> Tensors:
            whole = _with_penalty(group, block)
            if not group["momentum"]:
                return whole
            torch._foreach_mul_(block[2], group["momentum"])
            torch._foreach_add_(block[2], whole, alpha=weight)
            return torch._foreach_add(whole, block[2], alpha=group["momentum"]) if group["nesterov"] else block[2]

        _move(rows_of_kind, direction, optimizer, group)


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
    scratch, shards = None, active_shards(optimizer)
    is_half = bool(rows) and rows[0][0].dtype in HALVES
    for indices, blocks in bundles(rows):
        if len(blocks) > 1 and scratch is None and shards is None:
            first, size = rows[0][0], max(row[0].numel() for row in rows)
            scratch = torch.empty(size, dtype=_wide_type(first), device=first.device)
        memories, counted = _step_memory(blocks, scratch), []
        for block, memory in zip(blocks, memories, strict=True):
            widened = tuple([_widened(x) for x in column] for column in block) if is_half else block
            directions = direction(widened, memory, indices)
            products = torch._foreach_sign(widened[1])  # with the gradients themselves, small ones would come to 0
            torch._foreach_mul_(products, directions)
            for step, product, place in zip(directions, products, memory, strict=True):
                # The derivative of relu: 0 where the product is not positive, elsewhere the step.
                torch.ops.aten.threshold_backward.grad_input(step, product, 0, grad_input=place)
            counted.append([product.gt_(0).sum() for product in products])
        parameters = [rows[index][0] for index in indices]
        counts = torch.stack([torch.stack(block) for block in counted])
        if shards is None:
            _apply(blocks, memories, group, caution, list(map(Tensor.numel, parameters)), counts.sum(0))
        else:
            move = partial(_apply, blocks, memories, group, caution, list(map(shards.whole_size, parameters)))
            shards.waiting.append(Waiting(parameters, counts.sum(0, dtype=torch.int64), move))


def _apply(
    blocks: list[Lists],
    memories: list[list[Tensor]],
    group: ParamGroup,
    caution: Caution,
    sizes: list[int],
    counts: Tensor,
) -> None:
    """Move the parameters of a bundle by their steps in `memories`, given their sizes and how many elements agree."""
    scales = _scales(sizes, counts, caution)
    lr, decay = float(group["lr"]), decoupled_decay(group)
    for block, memory in zip(blocks, memories, strict=True):
        for p, step, scale in zip(block[0], memory, scales, strict=True):
            # In one pass over memory: p - lr * scale * (step + decay / scale * p).
            is_half = p.dtype in HALVES
            whole = _widened(p) if is_half else p
            torch._fused_sgd_(
                [whole], [step], [], lr=lr * scale, weight_decay=decay / scale, momentum=0.0,
                dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
            )  # fmt: skip
            if is_half:
                p.copy_(whole)


def _wide_type(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in HALVES else p.dtype


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_type(tensor))


def _step_memory(blocks: list[Lists], scratch: Tensor | None) -> list[list[Tensor]]:
    """Return memory for the steps of each block: those of one large parameter in `scratch`."""
    if len(blocks) == 1 or scratch is None:
        return [[torch.empty_like(p, dtype=_wide_type(p)) for p in block[0]] for block in blocks]
    sizes = [block[0][0].numel() for block in blocks]
    return [[part] for part in torch.split(scratch[: sum(sizes)], sizes)]


def _scales(sizes: Sequence[int], counts: Tensor, caution: Caution) -> list[float]:
    """Return the factor on each parameter's step, from its size and the count of its agreeing coordinates."""
    means = [agreeing / max(1, size) for agreeing, size in zip(counts.tolist(), sizes, strict=True)]
    # Where nothing agrees, the steps are 0, and eps may be next to 0.
    return [1.0 / (max(mean, caution.min_mean) + caution.eps) if mean else 1.0 for mean in means]


def _with_penalty(group: ParamGroup, block: Lists) -> Tensors:
    penalty = l2_penalty(group)
    return torch._foreach_add(block[1], block[0], alpha=penalty) if penalty else block[1]


def _loss_gradients(group: ParamGroup, parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the loss to minimize: negated if the group maximizes."""
    gradients = [with_strides_of(p, p.grad) for p in parameters]  # type: ignore[arg-type]  # they have one
    return list(torch._foreach_neg(gradients)) if group["maximize"] and gradients else gradients


CAUTIOUS_ADAM = Kernel(
    name="cautious_adam",
    shown_as="blocks",
    classes=(Adam, AdamW),
    implementations=("auto", "blocks"),
    step=by_group(_step_adam, after=move_waiting),
    unsupported_reason=_unsupported_reason,
    state_names=MOMENTS,
    cautious=True,
)
CAUTIOUS_SGD = Kernel(
    name="cautious_sgd",
    shown_as="blocks",
    classes=(SGD,),
    implementations=("auto", "blocks"),
    step=by_group(_step_sgd, after=move_waiting),
    unsupported_reason=_unsupported_reason,
    state_names=BUFFER,
    cautious=True,
)

KERNELS = (CAUTIOUS_ADAM, CAUTIOUS_SGD)
