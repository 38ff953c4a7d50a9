"""The machine's memory bandwidth, and the bytes that steps must move for each parameter."""

from collections.abc import Callable, Mapping

import torch
from measuring import DEVICE, machine, medians
from names import COPY
from tensors import SHAPES, elements

WORD = 4
"""Bytes of a float32."""

ADAMW = 7 * WORD
"""AdamW reads a parameter, its gradient and two moments, and writes all but the gradient. A schedule-free step moves
as much, and so does a cautious one that reads gradient and moment a second time from a cache."""
CLIPPED = ADAMW + WORD
"""The norm of all gradients must be known before the first of them is used, so they are read twice."""
HALF_MOMENTS = ADAMW - 4 * 2
"""Two moments of 2 bytes, each read and written."""
BYTE_MOMENTS = ADAMW - 4 * 3
"""Two moments of 1 byte; their scales, one for 256 elements, are left out."""
HALF = ADAMW // 2
"""Parameters, gradients and moments of 2 bytes."""
HALF_WITH_REMAINDER = HALF + 2 * 2
"""The same, with the rest of the rounding kept beside each parameter."""


WORDS: Mapping[str, int] = {COPY: 2, "a sum": 1, "a product in place": 2, "an interpolation in place": 3}
"""Words an element that each of the simple operations moves."""


def operation(name: str, count: int) -> Callable[[], object]:
    """Return one of the simple operations, over tensors of so many elements that no other one has."""
    first, other = (torch.rand(count, device=DEVICE) for _ in range(2))
    operations: dict[str, Callable[[], object]] = {
        COPY: lambda: first.copy_(other),
        "a sum": lambda: first.sum(),
        "a product in place": lambda: first.mul_(1.0),
        "an interpolation in place": lambda: first.lerp_(other, 0.5),
    }
    return operations[name]


def bandwidths(rounds: int = 15) -> dict[str, float]:
    """Return the bytes a second that each operation moves; a store counts as one word, though it may read first."""
    count = elements(SHAPES)
    return rates(medians({name: operation(name, count) for name in WORDS}, rounds), count)


def rates(times: Mapping[str, float], count: int) -> dict[str, float]:
    """Return the bytes a second of the operations over so many elements; `times` has their seconds by name."""
    return {name: words * WORD * count / times[name] for name, words in WORDS.items()}


if __name__ == "__main__":
    print(machine())
    for name, bandwidth in bandwidths().items():
        print(f"{name}: {bandwidth / 1e9:.1f} GB/s")
