"""Whole steps on CUDA devices: at most two launches for all parameters of a group, and no wait for the device.

A program takes one block of one row, the tensors of one parameter, which it finds by their addresses, in tables that
the host makes. Cautious steps count in a first launch where update and gradient agree, and move in a second, as in
`kernels.cautious`: Adam's reads and writes nine words a coordinate. Every operation is rounded as IEEE 754
requires and none are fused: a device must compute the same numbers as Triton's interpreter on the CPU.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor
from triton.language import constexpr, tensor

BLOCK = 2048
"""Elements in a block: of each tensor eight for each thread of the warps below, in two accesses of 128 bits."""
WARPS = 8

jit: Callable[[Callable[..., Any]], Any] = triton.jit


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler does not see writes by address
def run(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool = False,
    scale: Tensor | None = None,
) -> None:
    """Take the step `name` of all parameters of a group, in place.

    Args:
        name: a key of `STEPS`.
        rows: for each parameter its float32 tensors on one device, of one shape and equal strides, without gaps in
            memory, in the order of `_adam`, `_sgd` or `_radam`.
        numbers: for each row the numbers of its step, in the order of the same functions.
        choice: whether SGD is Nesterov's; whether schedule-free RAdam divides by the square's root.
        scale: a scalar on the gradients, on any device; None: 1. Nothing waits for it.
    """
    sizes = tuple(row[0].numel() for row in rows)
    if any(sizes):
        _launcher(rows, numbers, choice, sizes, sizes, scale)(STEPS[name])


@torch.compiler.disable  # type: ignore[untyped-decorator]  # as above
def count(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool,
    wholes: Sequence[int],
    scale: Tensor | None = None,
) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Take the first half of a cautious step of shards, as `run` takes it as a whole.

    Args:
        name: a key of `STEPS` with two programs, like the next three as for `run`.
        rows: of shards.
        numbers: of each row.
        choice: whether SGD is Nesterov's.
        wholes: for each row the elements of the whole parameter.
        scale: as for `run`.

    Returns:
        In how many elements of each row step and gradient agree, on the device; and a function that takes the other
        half, given these of the whole parameters. Neither waits for the device.
    """
    sizes = tuple(row[0].numel() for row in rows)
    if not any(sizes):
        return torch.zeros(len(rows), dtype=torch.int64, device=rows[0][0].device), lambda agreeing: None
    launch = _launcher(rows, numbers, choice, sizes, wholes, scale)
    counting, moving = STEPS[name]
    launch([counting])

    def move(agreeing: Tensor) -> None:
        launch.counts.copy_(agreeing)
        launch([moving])

    return launch.counts, move


@dataclass(frozen=True)
class _Launcher:
    """The tables of a step on the device, and what else its programs are launched with.

    Attributes:
        table: for each row the addresses of its tensors, the count of agreeing elements, at first 0, the size of the
            whole, its own size.
        scale: of the gradients, a float32 scalar, or None.
    """

    blocks: Tensor
    table: Tensor
    numbers: Tensor
    scale: Tensor | None
    choice: bool
    alignment: int

    @property
    def counts(self) -> Tensor:
        """The counts of agreeing elements of all rows."""
        return self.table[:, -3]

    def __call__(self, bodies: Iterable[object]) -> None:
        """Launch programs, one after another."""
        widths = self.table.shape[1], self.numbers.shape[1]
        tables = self.blocks, self.table, self.numbers, self.scale
        options = {"num_warps": WARPS, "enable_fp_fusion": False}
        with torch.cuda.device_of(self.table):  # type: ignore[no-untyped-call]
            for body in bodies:
                _kernel[(len(self.blocks),)](body, *tables, *widths, self.choice, self.alignment, BLOCK, **options)


def _launcher(
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool,
    sizes: tuple[int, ...],
    wholes: Sequence[int],
    scale: Tensor | None,
) -> _Launcher:
    assert len(rows) == len(numbers)
    device = rows[0][0].device
    addresses = np.array([[x.data_ptr() for x in row] for row in rows], dtype=np.int64)
    alignment = 4 if (addresses % 16).any() else 16
    with torch.cuda.device_of(rows[0][0]):  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        blocks = _blocks(sizes, BLOCK, device, stream)
        counts = np.stack([np.zeros_like(sizes), wholes, sizes], axis=1)
        table = _device_table(np.concatenate([addresses, counts], axis=1), np.int64, device)
        if scale is not None:
            scale = scale.to(device, torch.float32, non_blocking=True)
        return _Launcher(blocks, table, _device_table(numbers, np.float32, device), scale, choice, alignment)


@cache
def check_step(name: str, device: torch.device) -> None:
    """Take the step `name` of one number, which compiles it.

    Raises:
        OSError: without a C compiler for Triton; on a device that it does not support.
    """
    tensors, numbers = _WIDTHS[name]
    try:
        run(name, [[torch.zeros(1, device=device) for _ in range(tensors)]], [[1.0] * numbers])
    except Exception as error:  # Triton's have no common base
        raise OSError(f"Triton cannot compile {name} for {device}: {error}") from error


@lru_cache(maxsize=64)
def _blocks(sizes: tuple[int, ...], block: int, device: torch.device, stream: int) -> Tensor:
    """Return for each block of rows of these sizes its row, and which of the row's blocks it is.

    stream: the current one, in whose order the table is sent, read and given up.
    """
    counts = np.array([-(-size // block) for size in sizes])
    row = np.repeat(np.arange(len(sizes)), counts)
    index = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    return _device_table(np.stack([row, index], axis=1), np.int64, device)


def _device_table(values: ArrayLike, dtype: DTypeLike, device: torch.device) -> Tensor:
    """Return a table on the device, or on its way there: the host does not wait."""
    table = torch.from_numpy(np.array(values, dtype=dtype))
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


@jit
def _kernel(
    body: constexpr,
    blocks: tensor,
    table: tensor,
    numbers: tensor,
    scale: tensor,
    columns: constexpr,
    given: constexpr,
    choice: constexpr,
    alignment: constexpr,
    block: constexpr,
) -> None:
    """Run `body` on the program's block, with a mask only where the row ends in it.

    table: for each row in `columns` the addresses of its tensors, multiples of `alignment`; its count, which is 0; the
    size of the whole; its size. numbers: for each row as many as are `given`. scale: None, or that of the gradients.
    """
    place = blocks + tl.program_id(0) * 2
    row = tl.load(place)
    start = tl.load(place + 1) * block
    size = tl.load(table + row * columns + columns - 1)
    at = start + tl.arange(0, block)
    if start + block <= size:
        body(table + row * columns, numbers + row * given, at, None, scale, choice, alignment)
    else:
        body(table + row * columns, numbers + row * given, at, at < size, scale, choice, alignment)


@jit
def _tensor(address: tensor, at: tensor, alignment: constexpr) -> tensor:
    return tl.multiple_of(tl.load(address).to(tl.pointer_type(tl.float32)), alignment) + at


@jit
def _gradient(table: tensor, at: tensor, mask: tensor, scale: tensor, alignment: constexpr) -> tensor:
    gradient = tl.load(_tensor(table + 1, at, alignment), mask)
    return gradient if scale is None else gradient * tl.load(scale)


@jit
def _with_penalty(gradient: tensor, p: tensor, penalty: tensor, mask: tensor) -> tensor:
    if penalty != 0.0:  # else the parameter is not read
        gradient += tl.load(p, mask) * penalty
    return gradient


@jit
def _plus(one: tensor, other: tensor) -> tensor:
    return one + other


@jit
def _agree(step: tensor, gradient: tensor) -> tensor:
    return ((step > 0.0) & (gradient > 0.0)) | ((step < 0.0) & (gradient < 0.0))  # the product may come to 0


@jit
def _count(agree: tensor, mask: tensor, count: tensor) -> None:
    if mask is not None:
        agree = agree & mask
    # Not tl.sum, which the interpreter can call only where Triton was imported for it.
    tl.atomic_add(count, tl.reduce(agree.to(tl.int32), 0, _plus).to(tl.int64), sem="relaxed")


@jit
def _scaled(update: tensor, agree: tensor, count: tensor, lr: tensor, caution: tensor) -> tensor:
    """Return the cautious step. count: with the whole's size after it; caution: the least mean, with eps after it."""
    mean = tl.div_rn(tl.load(count).to(tl.float32), tl.load(count + 1).to(tl.float32))
    divisor = tl.maximum(mean, tl.load(caution)) + tl.load(caution + 1)
    scale = tl.div_rn(lr, tl.where(mean > 0.0, divisor, 1.0))  # where nothing agrees, the steps are 0
    return tl.where(agree, update, update * 0.0) * scale  # NaN stays NaN


@jit
def _adam(table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, alignment: constexpr) -> tensor:
    """Return the gradient of the loss to minimize, the same with the penalty, and the new average.

    table: the parameter, its gradient, average, square. h: 1 - beta1, beta2, 1 - beta2, eps, 1 / sqrt(1 - beta2^t),
    lr / (1 - beta1^t), 1 - lr * decoupled decay, the L2 penalty, 1 or -1 to maximize, min_mean, the caution's eps.
    """
    gradient = _gradient(table, at, mask, scale, alignment) * tl.load(h + 8)
    whole = _with_penalty(gradient, _tensor(table, at, alignment), tl.load(h + 7), mask)
    average, take = tl.load(_tensor(table + 2, at, alignment), mask), tl.load(h)
    change = whole - average
    # As torch's lerp: the one form would lose what is small beside the average before.
    return gradient, whole, tl.where(take < 0.5, average + change * take, whole - change * (1.0 - take))


@jit
def _count_adam(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    gradient, _, average = _adam(table, h, at, mask, scale, alignment)
    _count(_agree(average, gradient), mask, table + 4)


@jit
def _move_adam(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    _, whole, average = _adam(table, h, at, mask, scale, alignment)
    _write_adam(table, h, at, mask, alignment, average, whole, None)


@jit
def _move_cautious_adam(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    gradient, whole, average = _adam(table, h, at, mask, scale, alignment)
    _write_adam(table, h, at, mask, alignment, average, whole, _agree(average, gradient))


@jit
def _write_adam(
    table: tensor,
    h: tensor,
    at: tensor,
    mask: tensor,
    alignment: constexpr,
    average: tensor,
    whole: tensor,
    agree: tensor,
) -> None:
    p_at, square_at = _tensor(table, at, alignment), _tensor(table + 3, at, alignment)
    square = tl.load(square_at, mask) * tl.load(h + 1) + tl.load(h + 2) * whole * whole
    update = tl.div_rn(average, tl.sqrt_rn(square) * tl.load(h + 4) + tl.load(h + 3))
    step = update * tl.load(h + 5) if agree is None else _scaled(update, agree, table + 4, tl.load(h + 5), h + 9)
    tl.store(p_at, tl.load(p_at, mask) * tl.load(h + 6) - step, mask)
    tl.store(_tensor(table + 2, at, alignment), average, mask)
    tl.store(square_at, square, mask)


@jit
def _sgd(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> tensor:
    """Return the gradient of the loss to minimize, the new buffer, and the direction.

    table: the parameter, its gradient, buffer. h: momentum, 1 - dampening, lr, the L2 penalty, 1 or -1 to maximize,
    min_mean, the caution's eps.
    """
    gradient = _gradient(table, at, mask, scale, alignment) * tl.load(h + 4)
    whole = _with_penalty(gradient, _tensor(table, at, alignment), tl.load(h + 3), mask)
    buffer = tl.load(_tensor(table + 2, at, alignment), mask) * tl.load(h) + whole * tl.load(h + 1)
    return gradient, buffer, whole + buffer * tl.load(h) if choice else buffer


@jit
def _count_sgd(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    gradient, _, direction = _sgd(table, h, at, mask, scale, choice, alignment)
    _count(_agree(direction, gradient), mask, table + 3)


@jit
def _move_sgd(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    gradient, buffer, direction = _sgd(table, h, at, mask, scale, choice, alignment)
    step = _scaled(direction, _agree(direction, gradient), table + 3, tl.load(h + 2), h + 5)
    p_at = _tensor(table, at, alignment)
    tl.store(p_at, tl.load(p_at, mask) - step, mask)
    tl.store(_tensor(table + 2, at, alignment), buffer, mask)


@jit
def _radam(
    table: tensor, h: tensor, at: tensor, mask: tensor, scale: tensor, choice: constexpr, alignment: constexpr
) -> None:
    """Take a step of schedulefree's RAdamScheduleFree.

    table: y, its gradient, square, z. h: beta2, 1 - beta2, 1 - beta2^t, eps, weight decay, the new average's share of
    z, y's own lr, lr.
    """
    y_at = _tensor(table, at, alignment)
    square_at, z_at = _tensor(table + 2, at, alignment), _tensor(table + 3, at, alignment)
    y, z = tl.load(y_at, mask), tl.load(z_at, mask)
    direction = _gradient(table, at, mask, scale, alignment)
    square = tl.load(square_at, mask) * tl.load(h) + tl.load(h + 1) * direction * direction
    if choice:
        direction = tl.div_rn(direction, tl.sqrt_rn(tl.div_rn(square, tl.load(h + 2))) + tl.load(h + 3))
    direction += tl.where(tl.load(h + 4) != 0.0, y * tl.load(h + 4), 0.0)  # y may be infinite
    tl.store(y_at, y + (z - y) * tl.load(h + 5) + direction * tl.load(h + 6), mask)
    tl.store(z_at, z - direction * tl.load(h + 7), mask)
    tl.store(square_at, square, mask)


STEPS: dict[str, tuple[Any, ...]] = {
    "adam": (_move_adam,),
    "cautious_adam": (_count_adam, _move_cautious_adam),
    "cautious_sgd": (_count_sgd, _move_sgd),
    "schedule_free_radam": (_radam,),
}
"""The programs that each step launches, in order."""

_WIDTHS = {"adam": (4, 12), "cautious_adam": (4, 12), "cautious_sgd": (3, 9), "schedule_free_radam": (4, 9)}
"""How many tensors a row of each step has, and how many numbers it is given."""
