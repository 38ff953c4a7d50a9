"""Which kernel takes an optimizer's steps."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch.optim import SGD, Adagrad, Adam, Optimizer

from ..scheduling.optimizer import ScheduledOptimizer
from . import cautious, compiled, fused, schedule_free_radam
from .cautious import cautious_adam_step, cautious_sgd_step
from .compiled import compiled_adam_step, compiled_schedule_free_radam_step, compiled_sgd_step
from .fused import fused_adam_step, fused_step
from .moments import fused_objection
from .schedule_free_radam import schedule_free_radam_step
from .stepping import Objection

Kernel = Callable[..., Any]

KERNELS: tuple[tuple[Any, bool, dict[str, Kernel]], ...] = (
    (Adam, False, {"auto": fused_adam_step, "fused": fused_adam_step, "compiled": compiled_adam_step}),
    *((cls, False, {"auto": fused_step, "fused": fused_step}) for cls in (Adam, SGD, Adagrad)),
    (Adam, True, {"auto": cautious_adam_step, "compiled": compiled_adam_step}),
    (SGD, True, {"auto": cautious_sgd_step, "compiled": compiled_sgd_step}),
    (
        RAdamScheduleFree,
        False,
        {"auto": schedule_free_radam_step, "compiled": compiled_schedule_free_radam_step},
    ),
)
"""A class, whether its steps are cautious, and the kernels by the implementation that was asked for."""

COMPILED = (compiled_adam_step, compiled_sgd_step, compiled_schedule_free_radam_step)

OBJECTIONS: dict[Kernel, Objection] = {
    fused_adam_step: fused.objection,
    **dict.fromkeys((cautious_adam_step, cautious_sgd_step), cautious.objection),
    schedule_free_radam_step: schedule_free_radam.objection,
    **dict.fromkeys(COMPILED, compiled.objection),
}

NAMES: dict[Kernel, str] = {fused_adam_step: "fused", fused_step: "fused", **dict.fromkeys(COMPILED, "compiled")}


STATE_DTYPE = (
    "state_dtype: {dtype} needs implementation: compiled on the CPU, or auto or fused on a device where torch's fused"
    " kernel takes it, and float32 parameters; found {found}"
)


def kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    """Return the kernel for `optimizer`, or None where its class takes its own steps.

    implementation: as a factory's. Raises ValueError for "compiled" where there is no such kernel, and for an optimizer
    with a `state_dtype` whose steps would not know it.
    """
    if optimizer.state_dtype is None:
        return _kernel_for(optimizer, implementation)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: str | None = f"parameters of {', '.join(sorted({str(p.dtype) for p in parameters}))}"
    if all(p.dtype == torch.float32 for p in parameters):
        kernel = _kernel_for(optimizer, implementation)
        if kernel is fused_adam_step:
            found = fused_objection(optimizer)
        elif kernel is compiled_adam_step and all(p.is_cpu for p in parameters):
            found = None
        else:
            found = f"steps that are {implementation_of(optimizer, kernel)} on {parameters[0].device}"
        if found is None:
            return kernel
    dtype = str(optimizer.state_dtype).removeprefix("torch.")
    raise ValueError(STATE_DTYPE.format(dtype=dtype, found=found))


def _kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    reason: str | None = "there is one for adam, adamw, schedule_free_radam and cautious sgd"
    for cls, is_cautious, kernels in KERNELS:
        if isinstance(optimizer, cls) and is_cautious == (optimizer.caution is not None) and implementation in kernels:
            reason = _unfit(optimizer, cls, kernels[implementation])
            if reason is None:
                return kernels[implementation]
    if implementation == "compiled":
        raise ValueError(f"implementation: {type(optimizer).__name__} has no compiled one here: {reason}")
    return None


def implementation_of(optimizer: Optimizer, kernel: Kernel | None = None) -> str:
    """Return how `optimizer` takes its steps, as in a plan: fused, foreach, single, blocks, compiled, or default
    where the class chooses by itself; with "reference" where steps are made cautious afterwards.

    kernel: the one that is to take them; left out: the one that does.
    """
    kernel = kernel or getattr(optimizer, "kernel", None)
    if kernel is not None:
        return NAMES.get(kernel, "blocks")
    group = optimizer.param_groups[0]
    chosen = [name for name in ("fused", "foreach") if group.get(name)]
    if not chosen:
        chosen = ["single" if False in (group.get("fused"), group.get("foreach")) else "default"]
    return chosen[0] + (" + reference" if getattr(optimizer, "caution", None) is not None else "")


def _unfit(optimizer: ScheduledOptimizer, cls: Any, kernel: Kernel) -> str | None:
    """Return why `kernel`, for the steps of `cls`, cannot take those of `optimizer`."""
    own: Any = super(ScheduledOptimizer, optimizer).step
    if inspect.unwrap(own.__func__) is not inspect.unwrap(cls.step):
        return "its step is not that of the class"
    if kernel is fused_step:
        return None if all(group["fused"] for group in optimizer.param_groups) else "its groups are not fused"
    compiled.FAILURES.clear()  # what a compiler lacked before, it may have now
    objections = (OBJECTIONS[kernel](optimizer, group) for group in optimizer.param_groups)
    return next((objection for objection in objections if objection is not None), None)
