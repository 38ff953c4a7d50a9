"""From which size on `auto` takes a compiled step: where that is faster than the next best, and repays its compiling.

The whole sizes count, also of sharded parameters, so that all processes choose the same.
"""

import sys

from torch import Tensor

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.float64_step import HALVES

LEAST_ELEMENTS = 262_144
"""Elements of an optimizer from which steps are compiled on the CPU.

Compiled, Adam's take 0.6 to 0.9 of the time of torch's fused step there, and cautious and schedule-free ones half of
that of steps in blocks. So small a model takes a fraction of a millisecond in either way.
"""

LEAST_TENSORS = 100
"""Tensors of an optimizer from which steps are compiled on the CPU: each takes 1 µs then, not 5."""


def repays(optimizer: ScheduledOptimizer) -> bool:
    """Return whether `auto` takes a compiled step that is cautious or schedule-free: on a CUDA device always."""
    parameters = _parameters(optimizer)
    return not any(p.is_cpu for p in parameters) or _are_many(parameters)


def repays_adam(optimizer: ScheduledOptimizer) -> bool:
    """Return whether `auto` takes a compiled step of Adam or AdamW: on a CUDA device torch's fused one stays.

    So does it in half precision: a compiled step rounds moments by noise, that of a shard by another than the whole's.
    """
    parameters = _parameters(optimizer)
    return all(p.is_cpu and p.dtype not in HALVES for p in parameters) and _are_many(parameters)


def _parameters(optimizer: ScheduledOptimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _are_many(parameters: list[Tensor]) -> bool:
    # On macOS a compiled step takes one thread, and the others take all.
    are_many = len(parameters) >= LEAST_TENSORS or sum(p.numel() for p in parameters) >= LEAST_ELEMENTS
    return are_many and sys.platform != "darwin"
