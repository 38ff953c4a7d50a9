"""Sharded parameters: DTensors, of which each process holds a part. What is summed over their shards, and by whom.

Only this module and `local_shards` know DTensors. A set of parameters may be plain in part, and on several meshes.
"""

import sys
import warnings
from collections.abc import Iterable, Sequence
from inspect import unwrap
from typing import TYPE_CHECKING, Any, TypeGuard

import schedulefree
import torch
from torch import Tensor, distributed, nn, optim
from torch.optim import Optimizer

from .composite_optimizer import owner_of
from .memory_layout import PLAIN, parameter_labels

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

Layout = tuple["ProcessGroup", ...]
"""The groups of processes over which a tensor is sharded, one for each such dimension of its mesh."""

Sums = Sequence[tuple["ProcessGroup", list[int]]]
"""Groups, each with the indices of the values that are summed over its processes."""

ELEMENTWISE: tuple[type[Optimizer], ...] = (
    *(optim.Adam, optim.AdamW, optim.SGD, optim.Adagrad, optim.Adadelta, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.ASGD, optim.RMSprop, optim.Rprop),
    *(schedulefree.AdamWScheduleFree, schedulefree.RAdamScheduleFree, schedulefree.SGDScheduleFree),
)
"""Classes whose steps move each element by its own gradient and state."""

_NEEDS_WHOLE: dict[type[Optimizer], str] = {
    optim.Adafactor: "keeps means over the rows and columns of a whole parameter",
    optim.LBFGS: "takes dot products over all parameters",
    optim.SparseAdam: "takes sparse gradients, which a sharded parameter does not have",
}
"""Classes whose steps are wrong on shards and fail on DTensors, with the reason."""


def is_sharded(value: object) -> "TypeGuard[DTensor]":
    """Return whether `value` is a DTensor, also if it is replicated."""
    return type(value) not in PLAIN and isinstance(value, Tensor) and hasattr(value, "full_tensor")


def local_tensor(tensor: "DTensor") -> Tensor:
    """Return the local tensor of a DTensor, in the same memory and without a graph."""
    with torch.no_grad():
        local = tensor.to_local()
    return local if type(local) in PLAIN else getattr(local, "wait", lambda: local)()


def layout_of(tensor: "DTensor") -> Layout:
    """Return the groups over whose processes the elements of a DTensor are divided."""
    mesh = tensor.device_mesh
    return tuple(
        mesh.get_group(dim)
        for dim, placement in enumerate(tensor.placements)
        if not (placement.is_replicate() or placement.is_partial()) and mesh.size(dim) > 1
    )


def sum_over_shards(values: Tensor, sums: Sums) -> Tensor:
    """Return numbers summed over the processes of their layouts: one all_reduce for each set of processes. In place.

    All processes must call it with values of the same layouts in the same order. Nothing waits for a device.

    Args:
        values: a vector, each number of one shard.
        sums: what `sums_of` returns for the layouts of the values.
    """
    for group, indices in sums:
        parts = [] if len(indices) == len(values) else list(values.unbind())
        vector = torch.stack([parts[index] for index in indices]) if parts else values
        vector = vector.to(_device_for(group, values.device))
        distributed.all_reduce(vector, group=group)
        vector = vector.to(values.device)
        for index, value in zip(indices, vector.unbind(), strict=True) if parts else ():
            parts[index] = value
        values = torch.stack(parts) if parts else vector
    return values


def sums_of(layouts: Sequence[Layout]) -> Sums:
    """Return the groups of the layouts, each with the indices of those that have it, one for each set of processes."""
    indices: dict[ProcessGroup, list[int]] = {}
    for index, layout in enumerate(layouts):
        for group in layout:
            indices.setdefault(group, []).append(index)
    merged: dict[tuple[int, ...], tuple[ProcessGroup, list[int]]] = {}
    for group, own in indices.items():  # several meshes may have groups of the same processes
        merged.setdefault(tuple(distributed.get_process_group_ranks(group)), (group, []))[1].extend(own)
    return [(group, sorted(own)) for group, own in merged.values()]


def _device_for(group: "ProcessGroup", device: torch.device) -> torch.device:
    """Return where a collective of `group` takes place: on `device`, unless shards are offloaded to the CPU."""
    kinds = [pair.partition(":")[0] for pair in distributed.get_backend_config(group).split(",")]
    return device if device.type in kinds else torch.device(kinds[0])


def norm_over_shards(gradients: Iterable[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Return the joint L2 norm of sharded and plain gradients: one all_reduce for each set of processes.

    Args:
        gradients: sharded and plain ones.
        like: tensors of the same placements, in the same order on all processes: the gradients or their parameters,
            also such as have no gradient here. Others may have it, and wait for this process.
    """
    sums: dict[Layout, list[Tensor]] = {layout: [] for layout in _layouts(filter(is_sharded, like)).values()}
    plain: list[Tensor] = []
    sharded: list[DTensor] = []
    for gradient in gradients:
        if not is_sharded(gradient):
            plain.append(gradient)
        elif any(placement.is_partial() for placement in gradient.placements):
            sharded.append(gradient.redistribute(placements=_without_partial(gradient)))
        else:
            sharded.append(gradient)
    layouts = _layouts(sharded)
    parts: dict[tuple[Layout, torch.dtype, torch.device], list[Tensor]] = {}
    for layout, local in (
        *((layouts[_placement(each)], local_tensor(each)) for each in sharded),
        *(((), each) for each in plain),
    ):
        parts.setdefault((layout, local.dtype, local.device), []).append(local)
    for (layout, _, _), tensors in parts.items():
        sums.setdefault(layout, []).append(_square(tensors))
    zero = torch.zeros((), dtype=torch.float64, device=like[0].device)
    vector = torch.stack([sum((square.to(zero.device) for square in squares), zero) for squares in sums.values()])
    total = sum_over_shards(vector, sums_of(list(sums))).sum().sqrt()
    return total if any(each.dtype == torch.float64 for each in like) else total.float()


def _placement(tensor: "DTensor") -> tuple[object, ...]:
    return id(tensor.device_mesh), tensor.placements


def _layouts(tensors: "Iterable[DTensor]") -> dict[tuple[object, ...], Layout]:
    """Return the layouts of tensors by their placements, which are few."""
    found: dict[tuple[object, ...], Layout] = {}
    for tensor in tensors:
        if (key := _placement(tensor)) not in found:
            found[key] = layout_of(tensor)
    return found


def _without_partial(tensor: "DTensor") -> list[Any]:
    from torch.distributed.tensor import Replicate

    return [Replicate() if placement.is_partial() else placement for placement in tensor.placements]


def _square(tensors: list[Tensor]) -> Tensor:
    """Return the sum of the squares of all elements, in float64."""
    dtype = torch.float32 if tensors[0].dtype.itemsize < 4 else None  # where the square of a large norm would overflow
    norms = torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))
    return norms.to(torch.float64).square().sum()


def check_placement(optimizer: Optimizer) -> bool:
    """Return whether `optimizer` has parameters that are stepped on their local shards.

    Raises:
        ValueError: a parameter is sharded, and its class needs the whole.
    """
    found = False
    for group in optimizer.param_groups:
        cls = type(owner_of(optimizer, group))
        for index, p in enumerate(group["params"]):
            if is_sharded(p):
                if any(not placement.is_replicate() for placement in p.placements):
                    _refuse_shards(cls, p, parameter_labels(group)[index])
                found = found or is_elementwise(cls)
    return found


def _refuse_shards(cls: type[Optimizer], p: "DTensor", name: str) -> None:
    for needy, reason in _NEEDS_WHOLE.items():
        if issubclass(cls, needy):
            raise ValueError(
                f"{name} is sharded (a DTensor), and {needy.__name__} {reason}: train it by a class that works element"
                " by element, as AdamW, or do not shard it"
            )
    if issubclass(cls, optim.Muon):
        for size, placement in zip(p.device_mesh.shape, p.placements, strict=True):
            if not placement.is_replicate() and p.shape[placement.dim] < size:  # type: ignore[attr-defined]  # it is a shard
                raise ValueError(
                    f"{name} of shape {list(p.shape)} is sharded over {size} processes, and PyTorch's Muon steps no"
                    " matrix with fewer rows than processes: name it in fallback_match, or do not shard it"
                )


def check_sharded_later(optimizer: Optimizer, module: nn.Module | None, *, has_closure: bool) -> None:
    """Check before the first step that the parameters were not sharded after the optimizer was built.

    `fully_shard` puts other parameters into a module, so that the optimizer would train nothing. Without a module it
    can be seen only from the lack of gradients, which is worth a warning.

    Args:
        optimizer: about to take its first step.
        module: the one that it was built from, if it is known.
        has_closure: whether the gradients come later.

    Raises:
        RuntimeError: the module has a sharded parameter where the optimizer has a plain one.
    """
    if module is not None:
        now = {name: p for name, p in module.named_parameters() if is_sharded(p)}
        for group in optimizer.param_groups:
            for name, p in zip(group.get("param_names", ()), group["params"], strict=False):
                if name in now and not is_sharded(p):
                    raise RuntimeError(f"parameter {name!r} was sharded after this optimizer was built. {_LATE}")
    elif not has_closure and "torch.distributed.fsdp" in sys.modules and distributed.is_initialized():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not any(is_sharded(p) or p.grad is not None for p in parameters):
            warnings.warn(f"no parameter has a gradient in the first step. If they were sharded: {_LATE}", stacklevel=4)


_LATE = (
    "fully_shard puts other parameters into the module, and the optimizer would train none of them: build it after"
    " fully_shard"
)


def is_elementwise(cls: type[Optimizer]) -> bool:
    """Return whether the class that updates a group is known to step element by element."""
    step = unwrap(getattr(cls, "class_step", cls.step))
    return any(issubclass(cls, known) and step is unwrap(known.step) for known in ELEMENTWISE)
