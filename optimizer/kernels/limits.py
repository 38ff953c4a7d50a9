"""From which size on `auto` takes a compiled step: where that is faster than the next best, and repays its compiling.

The whole sizes count, also of sharded parameters, so that all processes choose the same.
"""

import sys

from torch import Tensor

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.float64_step import HALVES

LEAST_ELEMENTS = 262_144
"""Elements of an optimizer from which cautious and schedule-free steps are compiled on the CPU.

Compiled they take half of the time of steps in blocks, or less, at any size; so small a model takes a fraction of a
millisecond in either way.
"""

LEAST_TENSORS = 100
"""Tensors of an optimizer from which steps are compiled on the CPU, of Adam if they are small: 1 µs each, not 5."""

SMALL_TENSOR = 32_768
"""Mean elements of a tensor below which Adam's steps of many are compiled; else torch's fused step is as fast."""


def repays(optimizer: ScheduledOptimizer) -> bool:
    """Return whether `auto` takes a compiled step that is cautious or schedule-free: on a CUDA device always."""
    parameters = _parameters(optimizer)
    return not any(p.is_cpu for p in parameters) or _are_large(parameters, LEAST_ELEMENTS)


def repays_adam(optimizer: ScheduledOptimizer) -> bool:
    """Return whether `auto` takes a compiled step of Adam or AdamW: on a CUDA device torch's fused one stays.

    So does it in half precision: a compiled step rounds moments by noise, that of a shard by another than the whole's.
    """
    parameters = _parameters(optimizer)
    is_compilable = all(p.is_cpu and p.dtype not in HALVES for p in parameters)
    are_small = sum(p.numel() for p in parameters) < SMALL_TENSOR * len(parameters)
    return is_compilable and are_small and len(parameters) >= LEAST_TENSORS and sys.platform != "darwin"


def _parameters(optimizer: ScheduledOptimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _are_large(parameters: list[Tensor], elements: int) -> bool:
    # On macOS a compiled step takes one thread, and the others take all.
    is_large = len(parameters) >= LEAST_TENSORS or sum(p.numel() for p in parameters) >= elements
    return is_large and sys.platform != "darwin"
