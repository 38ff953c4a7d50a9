"""Steps in C for the CPU."""

import ctypes
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from .native_library import library
from .native_work import COUNT, MOVE, WHOLE, Work

ELEMENTS_ON_ONE_THREAD = 65_536
"""Up to so many elements a step takes one thread, and above all of torch's: a number between would make OpenMP end
threads and start them again for torch's next operation."""


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
) -> None:
    """Take a step of native.c, in place.

    Args:
        name: the step's function.
        rows: the tensors of each parameter, of one size and without gaps; all of one type, except moments in bfloat16.
        numbers: for each row, as the step's struct has them.
        choice: whether SGD is Nesterov's; whether schedule-free RAdam divides by the square's root.
        moments_at: the index in a row from which tensors may be bfloat16 with float32 parameters; None: none may.

    Raises:
        OSError: as `library` does.
        TypeError: for tensors of a row that differ in type, size or device.
    """
    if rows:
        _Step(name, rows, numbers, choice, moments_at).take(WHOLE)


def count(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool,
    moments_at: int | None,
    wholes: Sequence[int],
) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Take the first half of a cautious step of shards, as `run` takes it as a whole.

    Args:
        name: like the next four as for `run`.
        rows: of shards, at least one.
        numbers: of each row.
        choice: of the step.
        moments_at: in a row.
        wholes: for each row the elements of the whole parameter.

    Returns:
        In how many elements of each row step and gradient agree; and a function that takes the other half, given these
        of the whole parameters.
    """
    step = _Step(name, rows, numbers, choice, moments_at, wholes)
    step.take(COUNT)

    def move(agreeing: Tensor) -> None:
        step.agreeing.copy_(agreeing)
        step.take(MOVE)

    return step.agreeing, move


class _Step:
    """A step with its arguments as C takes them."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Sequence[Tensor]],
        numbers: Sequence[Sequence[float]],
        choice: bool,
        moments_at: int | None,
        wholes: Sequence[int] = (),
    ) -> None:
        dtypes = _checked_dtypes(rows, moments_at)
        self._rows = rows  # keeps the tensors alive
        self._function = library(name, dtypes[0], dtypes[-1]).step
        tensors, flat = list(chain.from_iterable(rows)), list(chain.from_iterable(numbers))
        sizes, integers = [row[0].numel() for row in rows], ctypes.c_int64 * len(rows)
        self.agreeing = torch.zeros(len(rows), dtype=torch.int64)
        self._threads = torch.get_num_threads() if sum(sizes) > ELEMENTS_ON_ONE_THREAD else 1
        self._work = Work(
            len(rows),
            choice,
            WHOLE,
            (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors]),
            integers(*sizes),
            (ctypes.c_double * len(flat))(*flat),
            integers(*(wholes or sizes)),
            self.agreeing.data_ptr(),
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
