"""Steps in C for the CPU."""

import ctypes
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from ..transforms.memory_layout import is_dense
from .native_library import library
from .native_work import COUNT, MOVE, WHOLE, Work

ELEMENTS_ON_ONE_THREAD = 65_536
"""Up to so many elements a step takes one thread, and above all of torch's: a number between would make OpenMP end
threads and start them again for torch's next operation."""

BLOCK = 16_384
"""Elements that a thread takes at a turn, as native.c has it."""


def _check_row(row: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> None:
    """Raise TypeError for tensors that differ in type, size or device: C would read and write beyond them."""
    count = row[0].numel()
    if any(x.dtype is not dtype or x.numel() != count or not x.is_cpu for x, dtype in zip(row, dtypes, strict=True)):
        found = ", ".join(f"{x.dtype} {list(x.shape)} on {x.device}" for x in row)
        raise TypeError(f"a parameter's tensors differ: {found}")


def run(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool = False,
    moments_at: int | None = None,
    scale: float = 1.0,
) -> None:
    """Take a step of native.c, in place.

    Args:
        name: the step's function.
        rows: the tensors of each parameter, of one size and without gaps; all of one type, except moments in bfloat16.
        numbers: for each row, as the step's struct has them.
        choice: whether SGD is Nesterov's; whether schedule-free RAdam divides by the square's root.
        moments_at: the index in a row from which tensors may be bfloat16 with float32 parameters; None: none may.
        scale: on the gradients, as a product in place before the step would be.

    Raises:
        OSError: as `library` does.
        TypeError: for tensors of a row that differ in type, size or device.
    """
    if rows:
        _Step(name, rows, numbers, choice, moments_at, scale).take(WHOLE)


def count(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool,
    moments_at: int | None,
    wholes: Sequence[int],
    scale: float = 1.0,
) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Take the first half of a cautious step of shards, as `run` takes it as a whole.

    Args:
        name: like the next four as for `run`.
        rows: of shards, at least one.
        numbers: of each row.
        choice: of the step.
        moments_at: in a row.
        wholes: for each row the elements of the whole parameter.
        scale: as for `run`.

    Returns:
        In how many elements of each row step and gradient agree; and a function that takes the other half, given these
        of the whole parameters.
    """
    step = _Step(name, rows, numbers, choice, moments_at, scale, wholes)
    step.take(COUNT)

    def move(agreeing: Tensor) -> None:
        step.agreeing.copy_(agreeing)
        step.take(MOVE)

    return step.agreeing, move


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each of `tensors`, from squares that are added up in float64 in a fixed order.

    Args:
        tensors: strided ones on the CPU, of one type, with their elements in memory as they are.

    Returns:
        A vector in their type, the same for any number of threads.

    Raises:
        OSError: as `library` does.
        TypeError: for a tensor of another type than the first, or elsewhere.
    """
    if not tensors:
        return torch.zeros(0)
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype is not dtype or not tensor.is_cpu:
            raise TypeError(f"norms of tensors of several types: {dtype}, and {tensor.dtype} on {tensor.device}")
    dense = [x if x.is_contiguous() or is_dense(x) else x.contiguous() for x in tensors]
    rows, sizes = len(dense), list(map(Tensor.numel, dense))
    sums = torch.empty(rows + sum(-(-size // BLOCK) for size in sizes), dtype=torch.float64)
    work = Work(
        rows=rows,
        tensors=(ctypes.c_void_p * rows)(*map(Tensor.data_ptr, dense)),
        sizes=(ctypes.c_int64 * rows)(*sizes),
        sums=sums.data_ptr(),
    )
    library("squares", dtype, dtype).step(ctypes.byref(work), _threads_for(sum(sizes)))
    return sums[:rows].sqrt_().to(dtype)


def _threads_for(elements: int) -> int:
    return torch.get_num_threads() if elements > ELEMENTS_ON_ONE_THREAD else 1


class _Step:
    """A step with its arguments as C takes them."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Sequence[Tensor]],
        numbers: Sequence[Sequence[float]],
        choice: bool,
        moments_at: int | None,
        scale: float,
        wholes: Sequence[int] = (),
    ) -> None:
        dtypes = _checked_dtypes(rows, moments_at)
        self._rows = rows  # keeps the tensors alive
        self._function = library(name, dtypes[0], dtypes[-1]).step
        tensors, flat = list(chain.from_iterable(rows)), list(chain.from_iterable(numbers))
        sizes, integers = [row[0].numel() for row in rows], ctypes.c_int64 * len(rows)
        self.agreeing = torch.zeros(len(rows), dtype=torch.int64)
        self._threads = _threads_for(sum(sizes))
        self._work = Work(
            len(rows),
            choice,
            WHOLE,
            (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors]),
            integers(*sizes),
            (ctypes.c_double * len(flat))(*flat),
            integers(*(wholes or sizes)),
            self.agreeing.data_ptr(),
            scale,
        )

    def take(self, phase: int) -> None:
        self._work.phase = phase
        self._function(ctypes.byref(self._work), self._threads)


def _checked_dtypes(rows: Sequence[Sequence[Tensor]], moments_at: int | None) -> list[torch.dtype]:
    """Return the types of the first row, which all rows must have. Raises TypeError as `run` does."""
    first, whole = rows[0], rows[0][0].dtype
    dtypes = [whole] * len(first)
    if whole == torch.float32 and moments_at is not None and first[-1].dtype == torch.bfloat16:
        dtypes[moments_at:] = [torch.bfloat16] * (len(first) - moments_at)
    for row in rows:
        _check_row(row, dtypes)
    return dtypes
