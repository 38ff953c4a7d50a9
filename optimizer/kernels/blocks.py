"""Lists of tensors in blocks that stay in a core's cache, so that many operations cost one trip to memory."""

from collections.abc import Iterator, Sequence

from torch import Tensor

BLOCK = 262_144
"""Elements in a block: 1 MiB of float32. On two cores with 2 MiB of cache each, less and more were slower."""

Tensors = list[Tensor] | tuple[Tensor, ...]
Lists = tuple[list[Tensor], ...]
"""Several lists of equal length, of tensors of equal shapes: parameters, gradients, moments."""


def bundles(rows: Sequence[Sequence[Tensor]]) -> Iterator[tuple[list[int], list[Lists]]]:
    """Yield the rows in bundles: the indices of a bundle's rows, and their tensors as lists in blocks.

    A row of tensors larger than a block is a bundle by itself, in as many blocks as it needs; smaller ones share one
    block. Only contiguous tensors on the CPU are cut.

    Args:
        rows: each has tensors of one shape, as a parameter, its gradient and its moments.
    """
    together: list[int] = []
    elements = 0
    for index, row in enumerate(rows):
        count = row[0].numel()
        if count > BLOCK and all(tensor.is_contiguous() and tensor.is_cpu for tensor in row):
            flat = [tensor.view(-1) for tensor in row]
            yield [index], [tuple([x[at : at + BLOCK]] for x in flat) for at in range(0, count, BLOCK)]
            continue
        if elements + count > BLOCK and together and row[0].is_cpu:
            yield together, [_columns(rows, together)]
            together, elements = [], 0
        together.append(index)
        elements += count
    if together:
        yield together, [_columns(rows, together)]


def _columns(rows: Sequence[Sequence[Tensor]], indices: list[int]) -> Lists:
    return tuple(list(column) for column in zip(*(rows[index] for index in indices), strict=True))
