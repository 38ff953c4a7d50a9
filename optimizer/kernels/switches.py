"""The switches by which a class of PyTorch's chooses its implementation: `fused` and `foreach`."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..transforms.float64_step import HALVES
from ..transforms.memory_layout import is_dense

Implementation = Literal["auto", "fused", "foreach", "single", "compiled", "blocks"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)
"""The values of `implementation` in a config."""

FUSED_ON_CPU_ONLY = (torch.optim.Adagrad,)
"""Classes whose fused step PyTorch refuses on a CUDA device."""

UNFUSED_HALVES = (torch.optim.SGD,)
"""Classes whose fused step on the CPU leaves half-precision parameters of 16 elements and more as they are (2.13)."""


def implementation_switches(
    optimizer_class: type[Optimizer],
    implementation: str,
    parameters: Iterable[Tensor],
    *,
    prefer_fused: bool,
    in_float64: bool = False,
) -> dict[str, bool]:
    """Return the keyword arguments that choose an implementation of the class's step.

    Args:
        optimizer_class: A class with the constructor of a torch.optim optimizer.
        implementation: `auto`, `fused`, `foreach`, `single`, `compiled` or `blocks`, as in a factory.
        parameters: The parameters of the optimizer.
        prefer_fused: Whether `auto` is fused for parameters that a fused step can update.
        in_float64: Whether the class will step copies of its parameters in float64.

    Raises:
        ValueError: The class has no such implementation, or it cannot update these parameters.
    """
    parameters = list(parameters)
    switches = {"fused", "foreach"} & set(inspect.signature(optimizer_class).parameters)
    if implementation == "auto":
        return {"fused": True} if prefer_fused and are_fusable(optimizer_class, parameters) else {}
    if implementation in ("compiled", "blocks"):
        return {}
    if implementation == "single":
        return dict.fromkeys(switches, False)
    if implementation not in switches:
        raise ValueError(f"implementation: {optimizer_class.__name__} has no {implementation} one")
    if implementation == "fused":
        _check_fusable(optimizer_class, parameters, in_float64)
    return {implementation: True}


def are_fusable(optimizer_class: type[Optimizer], parameters: Iterable[Tensor]) -> bool:
    """Return whether the fused step of a class can update all of `parameters`."""
    parameters = list(parameters)
    return _are_readable(optimizer_class, parameters) and not is_left_by_fused(optimizer_class, parameters)


def is_left_by_fused(optimizer_class: type[Optimizer], parameters: Iterable[Tensor]) -> bool:
    """Return whether PyTorch's fused step of a class leaves one of `parameters` as it is."""
    is_left = issubclass(optimizer_class, UNFUSED_HALVES)
    return is_left and any(p.is_cpu and p.dtype in HALVES for p in parameters)


def _check_fusable(optimizer_class: type[Optimizer], parameters: Sequence[Tensor], in_float64: bool) -> None:
    if not _are_readable(optimizer_class, parameters):
        where = f"for {optimizer_class.__name__}" if _devices(optimizer_class) == ("cpu",) else "or a CUDA device"
        raise ValueError(f"implementation: fused needs dense floating-point parameters on the CPU {where}")
    if is_left_by_fused(optimizer_class, parameters) and not in_float64:
        rule = "PyTorch's fused SGD does not move parameters in half precision"
        raise ValueError(f"implementation: fused needs float32 or float64 parameters on the CPU: {rule}")


def _are_readable(optimizer_class: type[Optimizer], parameters: Iterable[Tensor]) -> bool:
    devices = _devices(optimizer_class)
    return all(torch.is_floating_point(p) and p.device.type in devices and is_dense(p) for p in parameters)


def _devices(optimizer_class: type[Optimizer]) -> tuple[str, ...]:
    return ("cpu",) if issubclass(optimizer_class, FUSED_ON_CPU_ONLY) else ("cpu", "cuda")
