"""Which kernel takes an optimizer's steps."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch import Tensor, nn

from optimizer.embedding import ScheduledOptimizer
from optimizer.kernels.cautious import (
    cautious_adam_step,
    cautious_sgd_step,
    compiled_cautious_adam_step,
    compiled_cautious_sgd_step,
)
from optimizer.kernels.schedule_free_radam import compiled_schedule_free_radam_step, schedule_free_radam_step

Kernel = Callable[..., Any]

KERNELS: tuple[tuple[Any, bool, Kernel, Kernel], ...] = (
    (torch.optim.Adam, True, cautious_adam_step, compiled_cautious_adam_step),
    (torch.optim.SGD, True, cautious_sgd_step, compiled_cautious_sgd_step),
    (RAdamScheduleFree, False, schedule_free_radam_step, compiled_schedule_free_radam_step),
)
"""The class whose steps it takes, whether cautious ones, the kernel, and the one that is compiled."""


def kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    """Return the kernel for `optimizer`, or None where its class takes its own steps.

    implementation: as a factory's. Raises ValueError for "compiled" where there is no such kernel.
    """
    if implementation not in ("auto", "compiled"):
        return None
    for cls, is_cautious, in_blocks, compiled in KERNELS:
        if isinstance(optimizer, cls) and is_cautious == (optimizer.caution is not None):
            reason = _unfit(optimizer, cls)
            if reason is None:
                return compiled if implementation == "compiled" else in_blocks
            break
    else:
        reason = "there is one for schedule_free_radam and for cautious steps of adam, adamw and sgd"
    if implementation == "compiled":
        raise ValueError(f"implementation: {type(optimizer).__name__} has no compiled one here: {reason}")
    return None


def _unfit(optimizer: ScheduledOptimizer, cls: Any) -> str | None:
    """Return why the kernel of `cls` cannot take the steps of `optimizer`."""
    own: Any = super(ScheduledOptimizer, optimizer).step
    if inspect.unwrap(own.__func__) is not inspect.unwrap(cls.step):
        return "its step is not that of the class"
    for group in optimizer.param_groups:
        for option in ("amsgrad", "capturable", "differentiable"):
            if group.get(option):
                return f"it does not know {option}"
        if isinstance(group["lr"], Tensor):
            return "it does not know an lr that is a tensor"
        for p in group["params"]:
            if type(p) not in (Tensor, nn.Parameter) or p.layout != torch.strided:
                return f"a parameter is a {type(p).__name__} of layout {p.layout}"
            if p.dtype not in (torch.float32, torch.float64) or p.device.type not in ("cpu", "cuda"):
                return f"a parameter is {p.dtype} on {p.device}"
    return None
