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

_WITHOUT_ROWS = ("registry", "gpu")  # gpu imports Triton, which only torch's builds for CUDA bring, and takes a second


def _collected() -> Iterator[Kernel]:
    for module in iter_modules([str(Path(__file__).parent)]):
        if module.name not in _WITHOUT_ROWS:
            yield from getattr(import_module(f".{module.name}", __package__), "KERNELS", ())


KERNELS: tuple[Kernel, ...] = tuple(_collected())
"""All kernels, by module; the first one that supports an optimizer takes its steps."""

STATE_DTYPE = (
    "state_dtype: {dtype} needs implementation: compiled on the CPU, or auto or fused on a device where torch's fused"
    " kernel takes it, and float32 parameters; found {found}"
)


def kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    """Return the kernel for the steps of an optimizer, or None if its class takes them itself.

    Args:
        optimizer: as built, with its step options.
        implementation: as a factory's.

    Raises:
        ValueError: for "compiled" if no compiled kernel supports the optimizer, and for an optimizer with a
            `state_dtype` if no kernel supports that.
    """
    if optimizer.state_dtype is None:
        return _kernel_for(optimizer, implementation)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: str | None = f"parameters of {', '.join(sorted({str(p.dtype) for p in parameters}))}"
    if all(p.dtype == torch.float32 for p in parameters):
        kernel = _kernel_for(optimizer, implementation)
        if kernel is None or kernel.unsupported_state_dtype is None:
            found = f"steps that are {implementation_of(optimizer, kernel)} on {parameters[0].device}"
        else:
            found = kernel.unsupported_state_dtype(optimizer)
        if found is None:
            return kernel
    dtype = torch_name(optimizer.state_dtype)
    raise ValueError(STATE_DTYPE.format(dtype=dtype, found=found))


def implementation_of(optimizer: Optimizer, kernel: Kernel | None = None) -> str:
    """Return how an optimizer takes its steps, as a plan shows it.

    Args:
        optimizer: any optimizer.
        kernel: the kernel that takes the steps; left out: the optimizer's own, if it has one.

    Returns:
        fused, blocks or compiled for a kernel; fused, foreach or single for a class; default if the class chooses;
        with " + reference" if the class's steps are made cautious afterwards.
    """
    kernel = kernel or getattr(optimizer, "kernel", None)
    if kernel is not None:
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


def _kernel_for(optimizer: ScheduledOptimizer, implementation: str) -> Kernel | None:
    compiled.FAILURES.clear()  # a compiler that was missing before may be there now
    is_cautious = optimizer.caution is not None
    reason: str | None = None
    for kernel in KERNELS:
        if (
            isinstance(optimizer, kernel.classes)
            and is_cautious == kernel.cautious
            and implementation in kernel.implementations
        ):
            reason = _unsupported_reason(optimizer, kernel)
            if reason is None:
                return kernel
    if implementation == "compiled":
        reason = reason or f"there is one for {_supported(implementation)}"
        raise ValueError(f"implementation: {type(optimizer).__name__} has no compiled one here: {reason}")
    return None


def _unsupported_reason(optimizer: ScheduledOptimizer, kernel: Kernel) -> str | None:
    """Return why `kernel`, which is for the class of `optimizer`, cannot take its steps, or None."""
    step = inspect.unwrap(super(ScheduledOptimizer, optimizer).step.__func__)  # type: ignore[attr-defined]  # a method
    if not any(isinstance(optimizer, cls) and step is inspect.unwrap(cls.step) for cls in kernel.classes):
        return "its step is not that of the class"
    with on_local_shards(optimizer) if optimizer.is_on_shards else nullcontext():
        reasons = (kernel.unsupported_reason(optimizer, group) for group in optimizer.param_groups)
        return next((reason for reason in reasons if reason is not None), None)


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
