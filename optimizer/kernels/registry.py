"""The list of kernels, and which of them takes an optimizer's steps.

The list collects itself: each module of this package may have its rows as `KERNELS`, a tuple.
"""

import copyreg
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch
from torch.optim import Optimizer

from ..scheduling.kernel import Kernel
from ..scheduling.optimizer import ScheduledOptimizer
from ..state.dtypes import torch_name
from ..transforms.local_shards import on_local_shards
from . import compiled
from .stepping import unsupported_by

_WITHOUT_ROWS = ("registry", "gpu")  # gpu imports Triton, which only torch's builds for CUDA bring, and takes a second


def _collected() -> Iterator[Kernel]:
    for module in iter_modules([str(Path(__file__).parent)]):
        if module.name not in _WITHOUT_ROWS:
            yield from getattr(import_module(f".{module.name}", __package__), "KERNELS", ())


ORDER = ("compiled", "fused", "blocks")
"""The order in which kernels are tried, by how they are shown. `auto` leaves out those that do not repay."""

KERNELS: tuple[Kernel, ...] = tuple(sorted(_collected(), key=lambda kernel: ORDER.index(kernel.shown_as)))
"""All kernels, in that order; the first one that supports an optimizer takes its steps."""

STATE_DTYPE = (
    "state_dtype: {dtype} needs implementation: auto or compiled on the CPU, or auto or fused on a device where torch's"
    " fused kernel takes it, and float32 parameters; found {found}"
)


def kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    """Return the kernel for the steps of an optimizer, or None if its class takes them itself.

    Args:
        optimizer: as built, with its step options.
        implementation: as a factory's.

    Raises:
        ValueError: for "compiled" and "blocks" if no such kernel supports the optimizer, and for an optimizer with a
            `state_dtype` if no kernel supports that.
    """
    if implementation == "compiled":
        compiled.FAILURES.clear()  # a compiler that was missing before may be there now
    reasons: list[str] = []
    for kernel in _rows(optimizer, implementation):
        reason = _unsupported_reason(optimizer, kernel)
        if reason is None:
            return kernel
        reasons.append(reason)
    if optimizer.state_dtype is not None:
        found = _without_state_dtype(optimizer, reasons)
        raise ValueError(STATE_DTYPE.format(dtype=torch_name(optimizer.state_dtype), found=found))
    if implementation in ("compiled", "blocks"):
        reason = reasons[-1] if reasons else f"there is one for {_supported(implementation)}"
        raise ValueError(f"implementation: {type(optimizer).__name__} has no {implementation} one here: {reason}")
    return None


def uncompiled_reason(optimizer: Optimizer) -> str | None:
    """Return why an optimizer with `implementation: auto` has no compiled steps though they would repay, or None.

    Args:
        optimizer: any optimizer.

    Returns:
        Why compiling failed; None also where the compiled steps do not support the optimizer.
    """
    if not isinstance(optimizer, ScheduledOptimizer) or implementation_of(optimizer) == "compiled":
        return None
    failed = (_unsupported_reason(optimizer, row) for row in _rows(optimizer, "auto") if row.shown_as == "compiled")
    return next((reason for reason in failed if reason in compiled.FAILURES.values()), None)


def implementation_of(optimizer: Optimizer) -> str:
    """Return how an optimizer takes its steps, as a plan shows it; if that changed in the last step, how it does now.

    Args:
        optimizer: any optimizer.

    Returns:
        fused, blocks or compiled for a kernel; fused, foreach or single for a class; default if the class chooses;
        with " + reference" if the class's steps are made cautious afterwards.
    """
    kernel: Kernel | None = getattr(optimizer, "kernel", None)
    if kernel is not None and getattr(optimizer, "unsupported", None) is None:
        return kernel.shown_as
    group = optimizer.param_groups[0]
    chosen = [name for name in ("fused", "foreach") if group.get(name)]
    if not chosen:
        chosen = ["single" if False in (group.get("fused"), group.get("foreach")) else "default"]
    return chosen[0] + (" + reference" if getattr(optimizer, "caution", None) is not None else "")


def classes_with_state_dtype() -> list[type[Optimizer]]:
    """Return the optimizer classes for which a kernel can keep moments in a `state_dtype`."""
    return list(dict.fromkeys(cls for row in KERNELS if row.unsupported_state_dtype for cls in row.classes))


def kernel_by_name(name: str) -> Kernel:
    """Return the kernel of that name.

    Raises:
        KeyError: if there is none.
    """
    return {kernel.name: kernel for kernel in KERNELS}[name]


def _rows(optimizer: ScheduledOptimizer, implementation: str) -> list[Kernel]:
    """Return the kernels for the class of an optimizer and its options, in the order in which they are tried.

    With a `state_dtype`, they are those that can have it, whatever the size.
    """
    is_cautious = optimizer.caution is not None
    rows = [
        kernel
        for kernel in KERNELS
        if isinstance(optimizer, kernel.classes)
        and is_cautious == kernel.cautious
        and implementation in kernel.implementations
    ]
    if optimizer.state_dtype is not None:
        return [row for row in rows if row.unsupported_state_dtype is not None and _are_float32(optimizer)]
    return [row for row in rows if implementation != "auto" or row.repays is None or row.repays(optimizer)]


def _unsupported_reason(optimizer: ScheduledOptimizer, kernel: Kernel) -> str | None:
    """Return why `kernel`, which is for the class of `optimizer`, cannot take its steps, or None."""
    step = inspect.unwrap(super(ScheduledOptimizer, optimizer).step.__func__)  # type: ignore[attr-defined]  # a method
    if not any(isinstance(optimizer, cls) and step is inspect.unwrap(cls.step) for cls in kernel.classes):
        return "its step is not that of the class"
    with on_local_shards(optimizer) if optimizer.is_on_shards else nullcontext():
        return unsupported_by(kernel, optimizer)


def _are_float32(optimizer: ScheduledOptimizer) -> bool:
    return all(p.dtype == torch.float32 for group in optimizer.param_groups for p in group["params"])


def _without_state_dtype(optimizer: ScheduledOptimizer, reasons: list[str]) -> str:
    """Return the reason why no kernel supports an optimizer with its `state_dtype`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not _are_float32(optimizer):
        return f"parameters of {', '.join(sorted({str(p.dtype) for p in parameters}))}"
    return (
        "; ".join(dict.fromkeys(reasons)) or f"steps that are {implementation_of(optimizer)} on {parameters[0].device}"
    )


def _supported(implementation: str) -> str:
    """Return the classes with a kernel for `implementation`: "Adam, AdamW and cautious SGD"."""
    cautious_too: dict[str, bool] = {}
    for kernel in KERNELS:
        if implementation in kernel.implementations:
            for cls in kernel.classes:
                cautious_too[cls.__name__] = cautious_too.get(cls.__name__, True) and kernel.cautious
    *names, last = [f"cautious {name}" if only else name for name, only in cautious_too.items()]
    return f"{', '.join(names)} and {last}"


def _reduce(kernel: Kernel) -> tuple[Callable[[str], Kernel], tuple[str]]:
    return kernel_by_name, (kernel.name,)


copyreg.pickle(Kernel, _reduce)
