"""The switches by which a class of PyTorch's chooses its implementation: `fused` and `foreach`."""

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..transforms.memory_layout import is_dense


def implementation_switches(
    optimizer_class: type[Optimizer], implementation: str, parameters: Iterable[Tensor], *, prefer_fused: bool
) -> dict[str, bool]:
    """Return the keyword arguments that choose an implementation of the class's step.

    Args:
        optimizer_class: A class with the constructor of a torch.optim optimizer.
        implementation: `auto`, `fused`, `foreach`, `single` or `compiled`, as in a factory.
        parameters: The parameters of the optimizer.
        prefer_fused: Whether `auto` is fused for parameters that a fused step can update.

    Raises:
        ValueError: The class has no such implementation, or it cannot update these parameters.
    """
    switches = {"fused", "foreach"} & set(inspect.signature(optimizer_class).parameters)
    if implementation == "auto":
        return {"fused": True} if prefer_fused and _are_fusable(parameters) else {}
    if implementation == "compiled":
        return {}
    if implementation == "single":
        return dict.fromkeys(switches, False)
    if implementation not in switches:
        raise ValueError(f"implementation: {optimizer_class.__name__} has no {implementation} one")
    if implementation == "fused" and not _are_fusable(parameters):
        raise ValueError("implementation: fused needs dense floating-point parameters on the CPU or a CUDA device")
    return {implementation: True}


def _are_fusable(parameters: Iterable[Tensor]) -> bool:
    return all(torch.is_floating_point(p) and p.device.type in ("cpu", "cuda") and is_dense(p) for p in parameters)
