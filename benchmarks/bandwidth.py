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


Operations = Mapping[str, tuple[int, Callable[[], object]]]
"""Functions by name, each with the words an element that it moves."""


def operations(count: int) -> Operations:
    """Return simple operations over tensors of so many elements."""
    numbers = torch.rand(count, device=DEVICE)
    copied, target, added, scaled, moved, goal = (numbers.clone() for _ in range(6))  # no cache has them from another
    return {
        COPY: (2, lambda: target.copy_(copied)),
        "a sum": (1, lambda: added.sum()),
        "a product in place": (2, lambda: scaled.mul_(1.0)),
        "an interpolation in place": (3, lambda: moved.lerp_(goal, 0.5)),
    }


def bandwidths(rounds: int = 15) -> dict[str, float]:
    """Return the bytes a second that each operation moves; a store counts as one word, though it may read first."""
    count = elements(SHAPES)
    found = operations(count)
    return rates(found, medians({name: function for name, (_, function) in found.items()}, rounds), count)


def rates(found: Operations, times: Mapping[str, float], count: int) -> dict[str, float]:
    """Return the bytes a second of operations over so many elements that took these seconds."""
    return {name: words * WORD * count / times[name] for name, (words, _) in found.items()}


if __name__ == "__main__":
    print(machine())
    for name, bandwidth in bandwidths().items():
        print(f"{name}: {bandwidth / 1e9:.1f} GB/s")
