"""Steps in C for the CPU."""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TypeVar

import torch
from torch import Tensor

from ..transforms.memory_layout import is_dense
from .native_library import PAIRS, library
from .native_work import CHECK, COUNT, MOVE, WHOLE, Work

ELEMENTS_ON_ONE_THREAD = 65_536
"""Up to so many elements a step takes one thread, and above all of torch's: a number between would make OpenMP end
threads and start them again for torch's next operation."""

Number = TypeVar("Number", int, float)

BLOCK = 16_384
"""Elements of a gradient whose squares are added up before others', as native.c has it."""


class Step:
    """A step of native.c for parameters and state that stay where they are: each call has new gradients and numbers.

    Args:
        name: the step's function.
        rows: the tensors of each parameter, at least one, of one size and without gaps: parameter, gradient, state.
        sets: for each row which set of numbers it has.
        streams: for each row what the noise of its rounding differs in; left out: its place.
        steps: the count of steps of each row, a float32 scalar, to which each call adds 1; left out: none.
        wholes: for each row the elements of the whole parameter; left out: those of the row.
        is_noisy: whether parameters in bfloat16 are rounded stochastically.

    Raises:
        OSError: as `library` does.
        TypeError: for tensors of a row that differ in type, size or device.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Sequence[Tensor]],
        sets: Sequence[int],
        *,
        streams: Sequence[int] | None = None,
        steps: Sequence[Tensor] = (),
        wholes: Sequence[int] = (),
        is_noisy: bool = False,
    ) -> None:
        types = _checked_types(rows, steps)
        self._function = library(name, *types).step
        self.kind = name, *types, is_noisy
        """Steps of one kind may be taken together."""
        self._held = [x for row in rows for x in (row[0], *row[2:])], steps  # they stay alive
        self._width = len(rows[0])
        self._tensors = array("q", [tensor.data_ptr() for row in rows for tensor in row])
        self._sizes = array("q", [row[0].numel() for row in rows])
        self._wholes = array("q", wholes) if wholes else self._sizes
        self._sets = array("i", sets)
        self._steps = array("q", map(Tensor.data_ptr, steps))
        self._streams = array("I", streams if streams is not None else range(len(rows)))
        self._elements = sum(self._sizes)
        self._gradients: Sequence[Tensor] = ()
        self.agreeing = torch.zeros(len(rows), dtype=torch.int64, device="cpu")
        """In how many elements of each row step and gradient agree, after `count`."""
        self._work = Work(
            rows=len(rows),
            tensors=_address(self._tensors),
            sizes=_address(self._sizes),
            wholes=_address(self._wholes),
            sets=_address(self._sets),
            steps=_address(self._steps) if steps else None,
            streams=_address(self._streams),
            agreeing=self.agreeing.data_ptr(),
            is_noisy=is_noisy,
        )

    def set_numbers(self, numbers: Sequence[Sequence[float]], scale: float = 1.0) -> None:
        """Give the coming step the numbers of each set, as the step's struct has them, and a scale of the gradients."""
        self._numbers, self._scales = array("d", chain.from_iterable(numbers)), array("d", [scale] * len(numbers))
        self._work.numbers, self._work.scales = _address(self._numbers), _address(self._scales)

    def has_counts(self, counts: Sequence[float]) -> bool:
        """Return whether the steps of the rows are, set by set, at these counts."""
        values = array("d", counts)
        self._work.counts = _address(values)
        return self._call(CHECK) == 0

    def take(self, gradients: Sequence[Tensor]) -> None:
        """Take the step in place, given the gradient of each row, like the one at first."""
        self._give(gradients)
        self._call(WHOLE)

    def count(self, gradients: Sequence[Tensor]) -> None:
        """Take the first half of a cautious step of shards: count in `agreeing` where step and gradient agree.

        It may move the averages already, so that `move` must follow.
        """
        self._give(gradients)
        self._gradients = gradients  # they stay alive until `move`
        self._call(COUNT)

    def move(self, agreeing: Tensor) -> None:
        """Take the other half, given the counts over the whole parameters."""
        self.agreeing.copy_(agreeing)
        self._call(MOVE)
        self._gradients = ()

    def _give(self, gradients: Sequence[Tensor]) -> None:
        self._tensors[1 :: self._width] = array("q", map(Tensor.data_ptr, gradients))

    def _call(self, phase: int) -> int:
        self._work.phase = phase
        odd: int = self._function(ctypes.byref(self._work), _threads(self._elements))
        return odd


def take_together(steps: Sequence[Step], gradients: Sequence[Sequence[Tensor]]) -> None:
    """Take steps in one call, to the same effect bit for bit as one after the other.

    Args:
        steps: of one kind, with their numbers, of whole parameters; no two of them share one.
        gradients: of each step, as `Step.take` has them.
    """
    for step, own in zip(steps, gradients, strict=True):
        step._give(own)
    firsts = accumulate((len(step._scales) for step in steps), initial=0)
    sets = [array("i", [first + at for at in step._sets]) for first, step in zip(firsts, steps, strict=False)]
    arrays: dict[str, array[int] | array[float]] = {
        "tensors": _joined([step._tensors for step in steps]),
        "sizes": _joined([step._sizes for step in steps]),
        "wholes": _joined([step._wholes for step in steps]),
        "sets": _joined(sets),
        "numbers": _joined([step._numbers for step in steps]),
        "scales": _joined([step._scales for step in steps]),
        "steps": _joined([step._steps for step in steps]),
        "streams": _joined([step._streams for step in steps]),
        "agreeing": array("q", bytes(8 * sum(len(step._sizes) for step in steps))),
    }
    addresses = {name: _address(values) for name, values in arrays.items() if values}
    work = Work(rows=len(arrays["sizes"]), phase=WHOLE, is_noisy=steps[0].kind[-1], **addresses)
    steps[0]._function(ctypes.byref(work), _threads(sum(step._elements for step in steps)))


def squares(tensors: Sequence[Tensor]) -> Sequence[float]:
    """Return the sum of squares of each of `tensors`, added up in float64 in an order that is fixed.

    Args:
        tensors: strided ones on the CPU, of one type, with their elements in memory as they are.

    Returns:
        The same for any number of threads.

    Raises:
        OSError: as `library` does.
        TypeError: for a tensor of another type than the first, or elsewhere.
    """
    if not tensors:
        return []
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype is not dtype or not tensor.is_cpu:
            raise TypeError(f"squares of tensors of several types: {dtype}, and {tensor.dtype} on {tensor.device}")
    dense = [x if x.is_contiguous() or is_dense(x) else x.contiguous() for x in tensors]
    addresses, sizes = array("q", map(Tensor.data_ptr, dense)), array("q", map(Tensor.numel, dense))
    rows, elements = len(sizes), sum(sizes)
    sums = array("d", bytes(8 * (rows + rows + elements // BLOCK)))  # of rows, and of so many blocks at most
    work = Work(rows=rows, tensors=_address(addresses), sizes=_address(sizes), sums=_address(sums))
    library("squares", dtype, dtype).step(ctypes.byref(work), _threads(elements))
    return sums[:rows]


def _checked_types(rows: Sequence[Sequence[Tensor]], steps: Sequence[Tensor]) -> tuple[torch.dtype, torch.dtype]:
    """Return the types of parameters and of state. Raises TypeError as `Step` does."""
    dtype, state_dtype = rows[0][0].dtype, rows[0][-1].dtype
    if (dtype, state_dtype) not in PAIRS:
        state_dtype = dtype
    for row in rows:
        _check_row(row, [dtype, dtype, *[state_dtype] * (len(row) - 2)])
    if any(step.dtype is not torch.float32 or not step.is_cpu or step.numel() != 1 for step in steps):
        raise TypeError("a count of steps is not a float32 scalar on the CPU")
    return dtype, state_dtype


def _check_row(row: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> None:
    """Raise TypeError for tensors that differ in type, size or device: C would read and write beyond them."""
    count = row[0].numel()
    if any(x.dtype is not dtype or x.numel() != count or not x.is_cpu for x, dtype in zip(row, dtypes, strict=True)):
        found = ", ".join(f"{x.dtype} {list(x.shape)} on {x.device}" for x in row)
        raise TypeError(f"a parameter's tensors differ: {found}")


def _threads(elements: int) -> int:
    return torch.get_num_threads() if elements > ELEMENTS_ON_ONE_THREAD else 1


def _address(values: "array[int] | array[float]") -> int:
    return values.buffer_info()[0]


def _joined(arrays: "Sequence[array[Number]]") -> "array[Number]":
    whole = arrays[0][:]
    for values in arrays[1:]:
        whole += values
    return whole
