"""The switches by which a class of PyTorch's chooses its implementation: `fused` and `foreach`."""

import inspect
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..transforms.memory_layout import is_dense

Implementation = Literal["auto", "fused", "foreach", "single", "compiled", "blocks"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)
"""The values of `implementation` in a config."""

FUSED_ON_CPU_ONLY = (torch.optim.Adagrad,)
"""Classes whose fused step PyTorch refuses on a CUDA device."""


def implementation_switches(
    optimizer_class: type[Optimizer], implementation: str, parameters: Iterable[Tensor], *, prefer_fused: bool
) -> dict[str, bool]:
    """Return the keyword arguments that choose an implementation of the class's step.

    Args:
        optimizer_class: A class with the constructor of a torch.optim optimizer.
        implementation: `auto`, `fused`, `foreach`, `single`, `compiled` or `blocks`, as in a factory.
        parameters: The parameters of the optimizer.
        prefer_fused: Whether `auto` is fused for parameters that a fused step can update.

    Raises:
        ValueError: The class has no such implementation, or it cannot update these parameters.
    """
    devices = ("cpu",) if issubclass(optimizer_class, FUSED_ON_CPU_ONLY) else ("cpu", "cuda")
    switches = {"fused", "foreach"} & set(inspect.signature(optimizer_class).parameters)
    if implementation == "auto":
        return {"fused": True} if prefer_fused and _are_fusable(parameters, devices) else {}
    if implementation in ("compiled", "blocks"):
        return {}
    if implementation == "single":
        return dict.fromkeys(switches, False)
    if implementation not in switches:
        raise ValueError(f"implementation: {optimizer_class.__name__} has no {implementation} one")
    if implementation == "fused" and not _are_fusable(parameters, devices):
        where = "or a CUDA device" if "cuda" in devices else f"for {optimizer_class.__name__}"
        raise ValueError(f"implementation: fused needs dense floating-point parameters on the CPU {where}")
    return {implementation: True}


def _are_fusable(parameters: Iterable[Tensor], devices: tuple[str, ...]) -> bool:
    return all(torch.is_floating_point(p) and p.device.type in devices and is_dense(p) for p in parameters)
