"""The test that a compiled library passes before it is used: a step in C against the same one by torch in float64.

A library may be wrong in silence. Clang's OpenMP beside torch's, for example, starts threads that all take the first
thread's share and each other's.
"""

import ctypes
from collections.abc import Callable, Sequence
from itertools import chain
from threading import Thread
from typing import NamedTuple

import torch
from torch import Tensor

from .native_work import COUNT, MOVE, WHOLE, Work

SIZES = (7, 1_000, 20_000, 20_000, 20_000, 20_000)
"""The elements of the rows. For torch each is small enough to take one thread."""

PERIOD = 2_000
"""The elements after which a row repeats itself: so many are computed by torch."""

SCALE = 0.5
"""Of the gradients."""

THREADS = 8
"""The highest number of threads that are tried: more take longer to start than to show a fault."""

SECONDS = 20
"""The time limit of a test, which usually takes five milliseconds."""

_ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""The largest differences from float64, of numbers of about 1: rounding at random is off by up to a last bit."""

Step = Callable[[Sequence[Tensor], Sequence[float]], tuple[Tensor, ...]]


class _Trial(NamedTuple):
    """A step to try, with numbers as native.c has them: powers of 2 where a sign is compared, which is then exact.

    Attributes:
        numbers: of each row.
        step: returns the row after the step, without its gradient; of one without numbers, what is summed up.
        tensors: how many a row has.
        square: the place of the one that is not negative.
    """

    numbers: tuple[float, ...]
    step: Step
    tensors: int = 4
    square: int | None = None


def check(library: ctypes.CDLL, name: str, dtype: torch.dtype, state_dtype: torch.dtype, threads: int) -> None:
    """Try a step of a library.

    It runs in a new thread. So the caller's modes do not matter, and OpenMP's threads end with it: a process that is
    forked later would wait for them for ever.

    Args:
        library: has the function `step`.
        name: of the step.
        dtype: of parameters and gradients.
        state_dtype: of the other tensors of a row.
        threads: how many torch uses.

    Raises:
        OSError: if the result is wrong, or there is none in time.
    """
    found: list[str | None] = []

    def run() -> None:
        try:
            with torch.no_grad():
                found.append(_fault(library, _TRIALS[name], (dtype, state_dtype), max(2, min(threads, THREADS))))
        except Exception as error:
            found.append(f"failed: {error!r}")

    thread = Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(f"no trial of the step {name}: {error}") from None
    thread.join(SECONDS)
    if not found:
        raise OSError(f"a trial of the step {name} did not end in {SECONDS} seconds")
    if found[0] is not None:
        raise OSError(f"a trial of the step {name} {found[0]}")


def _fault(library: ctypes.CDLL, trial: _Trial, dtypes: tuple[torch.dtype, torch.dtype], threads: int) -> str | None:
    """Return a description of the fault of a step, or None."""
    patterns = [_pattern(place, place == trial.square) for place in range(trial.tensors)]
    repeated = [pattern.to(dtypes[place > 1]).repeat(max(SIZES) // PERIOD) for place, pattern in enumerate(patterns)]
    rows = [[pattern[:size].clone() for pattern in repeated] for size in SIZES]
    patterns[1:2] = [gradient * SCALE for gradient in patterns[1:2]]
    expected = {size: trial.step([pattern[:size] for pattern in patterns], trial.numbers) for size in set(SIZES)}
    others = [[tensor.clone() for tensor in row] for row in rows]
    together = _written(library, trial, rows, (WHOLE,), threads)
    alone = _written(library, trial, others, (COUNT, MOVE), 1)
    for size, row, other in zip(SIZES, together, alone, strict=True):
        for tensor, same, value in zip(row, other, expected[size], strict=True):
            if not torch.equal(tensor, same):
                return f"differs between 1 and {threads} threads"
            right = (tensor.view(-1, len(value)) - value.to(tensor.dtype)).abs() <= _ERRORS[tensor.dtype]
            wrong = tensor.numel() - int(right.sum())
            if wrong:
                return f"has {wrong:,} of {tensor.numel():,} elements wrong"
    return None


def _written(
    library: ctypes.CDLL, trial: _Trial, rows: list[list[Tensor]], phases: Sequence[int], threads: int
) -> list[list[Tensor]]:
    """Take a step; return the tensors of each row that it has written."""
    tensors, integers = list(chain.from_iterable(rows)), ctypes.c_int64 * len(rows)
    sizes, agreeing, sets = integers(*SIZES), integers(), (ctypes.c_int32 * len(rows))()
    addresses = (ctypes.c_void_p * len(tensors))(*map(Tensor.data_ptr, tensors))
    numbers = (ctypes.c_double * len(trial.numbers))(*trial.numbers)
    scales = ctypes.c_double(SCALE)
    sums = torch.zeros(sum(SIZES) // 1000, dtype=torch.float64, device="cpu")  # of rows and blocks, which are larger
    work = Work(
        rows=len(rows),
        tensors=ctypes.addressof(addresses),
        sizes=ctypes.addressof(sizes),
        wholes=ctypes.addressof(sizes),
        sets=ctypes.addressof(sets),
        numbers=ctypes.addressof(numbers),
        streams=ctypes.addressof(sets),
        agreeing=ctypes.addressof(agreeing),
        scales=ctypes.addressof(scales),
        sums=sums.data_ptr(),
    )
    for phase in phases:
        work.phase = phase
        library.step(ctypes.byref(work), threads)
    if not trial.numbers:  # the sum of a period
        return [[sums[at : at + 1] / max(1, size // PERIOD)] for at, size in enumerate(SIZES)]
    return [[row[0], *row[2:]] for row in rows]


def _pattern(place: int, is_square: bool) -> Tensor:
    """Return values for the tensors at `place` in the rows, a few bits long."""
    numbers = torch.arange(PERIOD, device="cpu")
    mixed = (numbers * (2 * place + 3) + (numbers >> 6) * 5) & 63
    return (mixed + 1 if is_square else mixed - 32).double() / 32


def _adam(row: Sequence[Tensor], numbers: Sequence[float], *, cautious: bool = False) -> tuple[Tensor, ...]:
    take1, keep2, take2, eps, root, size, keep, penalty, sign, _, slack, _ = numbers
    p, gradient, average, square = row
    gradient = sign * gradient
    whole = gradient + penalty * p
    average, square = average + (whole - average) * take1, square * keep2 + take2 * whole**2
    step = average / (square.sqrt() * root + eps)
    if cautious:
        step = _masked(step, gradient, slack)
    return p * keep - size * step, average, square


def _cautious_adam(row: Sequence[Tensor], numbers: Sequence[float]) -> tuple[Tensor, ...]:
    return _adam(row, numbers, cautious=True)


def _cautious_sgd(row: Sequence[Tensor], numbers: Sequence[float]) -> tuple[Tensor, ...]:
    momentum, taken, lr, penalty, sign, _, slack, _, _ = numbers
    p, gradient, buffer = row
    gradient = sign * gradient
    whole = gradient + penalty * p
    buffer = buffer * momentum + whole * taken
    return p - lr * _masked(whole + buffer * momentum, gradient, slack), buffer


def _masked(step: Tensor, gradient: Tensor, slack: float) -> Tensor:
    agreeing = (step * gradient > 0).double()
    return step * agreeing / (agreeing.mean() + slack)


def _schedule_free_radam(row: Sequence[Tensor], numbers: Sequence[float]) -> tuple[Tensor, ...]:
    beta2, take2, correction, eps, decay, share, own_lr, lr, _ = numbers
    y, gradient, square, z = row
    square = square * beta2 + take2 * gradient**2
    step = gradient / ((square / correction).sqrt() + eps) + decay * y
    return y + (z - y) * share + own_lr * step, square, z - lr * step


def _squares(row: Sequence[Tensor], numbers: Sequence[float]) -> tuple[Tensor, ...]:
    return (row[0].square().sum(0, keepdim=True),)


_ADAM = (0.125, 0.875, 0.125, 1e-8, 1.25, 0.05, 0.99, 0.25, -1.0, 0.0, 0.25, 1.0)

_TRIALS = {
    "adam": _Trial(_ADAM, _adam, square=3),
    "cautious_adam": _Trial(_ADAM, _cautious_adam, square=3),
    "cautious_sgd": _Trial((0.5, 0.75, 0.05, 0.25, -1.0, 0.0, 0.25, 1.0, 1.0), _cautious_sgd, tensors=3),
    "schedule_free_radam": _Trial(
        (0.875, 0.125, 0.5, 1e-8, 0.25, 0.125, -0.05, 0.05, 1.0), _schedule_free_radam, square=2
    ),
    "squares": _Trial((), _squares, tensors=1),
}
