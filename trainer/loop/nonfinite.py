"""Whether the values of tensors are finite."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from optimizer.config import counted
from optimizer.state import local_part

from ..distributed.step_labels import named_ranks
from ..distributed.world import World
from ..errors import NonFiniteError
from ..interfaces.component import is_frozen
from ..interfaces.dataset import Batch
from .running_statistics import statistics_of


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether every element of every tensor is finite: one pass over memory, one wait for each device."""
    plain: defaultdict[tuple[torch.device, bool], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if type(tensor) is Tensor and tensor.is_floating_point() and tensor.is_contiguous():
            plain[tensor.device, tensor.dtype is torch.bfloat16].append(tensor)
        elif count_nonfinite(tensor):
            return False
    flags = [_flag(some, device, in_bfloat16) for (device, in_bfloat16), some in plain.items()]
    return not any(map(bool, flags))


def count_nonfinite(tensor: Tensor) -> int:
    """Return how many elements of `tensor` are NaN or infinite."""
    values = _float_values(tensor)
    return 0 if values is None else values.numel() - int(torch.isfinite(values).sum())


def has_nonfinite(tensor: Tensor, infinities_too: bool) -> bool:
    """Return whether `tensor` holds a NaN, or with `infinities_too` an infinite value. A large tensor is not copied."""
    values = _float_values(tensor)
    if values is None or values.numel() == 0 or values.device.type == "meta":
        return False
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    if _has_finite_sum(values):
        return False
    values = values.float() if values.element_size() == 1 else values  # the types of 8 bits cannot be compared
    least, largest = torch.aminmax(values)  # NaN if there is one
    return bool((least.isnan() | (least.isinf() | largest.isinf() if infinities_too else False)).item())


def first_nonfinite(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Return the name of the first tensor that is not finite, and how many of its values are not; None if all are."""
    for name, tensor in named:
        if tensor is not None and has_nonfinite(tensor, infinities_too=True) and (bad := count_nonfinite(tensor)):
            return f"{name} ({bad:,} of {counted(tensor.numel(), 'value', f'{tensor.numel():,}')})"
    return None


def check_weights(components: nn.ModuleDict, averages: Iterable[tuple[str, Tensor]]) -> None:
    """Check the weights that train, BatchNorm's statistics, and the averages of both.

    Raises:
        NonFiniteError: One of them holds a NaN or an infinite value.
    """
    if found := first_nonfinite(chain(_weights_and_statistics(components), averages)):
        raise NonFiniteError(f"the weights are not finite: {found}")


def describe_nonfinite(
    world: World, losses: Sequence[Tensor], batch: Batch, components: Mapping[str, nn.Module]
) -> str:
    """Return a sentence that names each loss, entry of the batch, weight and gradient that is not finite.

    All processes call it; what only some of them have found is reported with their ranks.

    Args:
        world: The processes of the run.
        losses: Scalars, one a batch of the update.
        batch: The last of these batches.
        components: The components that the losses update, by name. The first weight or gradient of each is named.
    """
    ranks: dict[str, list[int]] = {}
    for rank, findings in enumerate(world.gather(_nonfinite(losses, batch, components))):
        for finding in findings:
            ranks.setdefault(finding, []).append(rank)
    return "; ".join(
        finding if len(those) == world.size else f"on {named_ranks(those)} {finding}"
        for finding, those in ranks.items()
    )


def _nonfinite(losses: Sequence[Tensor], batch: Batch, components: Mapping[str, nn.Module]) -> list[str]:
    """Return the reasons that `describe_nonfinite` reports for this process."""
    found = []
    for index, loss in enumerate(losses):
        if not torch.isfinite(loss).all():
            which = f" of batch {index} of {len(losses)}" if len(losses) > 1 else ""
            found.append(f"the loss{which} is {float(loss):g}")
    if entry := first_nonfinite(batch.items()):
        found.append(f"the batch's {entry} is not finite")
    for name, component in components.items():
        parameters = list(component.named_parameters())
        if weight := first_nonfinite(parameters):
            found.append(f"the weights of {name} are not finite: {weight}")
        elif gradient := first_nonfinite((key, parameter.grad) for key, parameter in parameters):
            found.append(f"the gradient of {name} is not finite: {gradient}")
    return found


def _has_finite_sum(values: Tensor) -> bool:
    """Return whether the sum of `values` is a finite number, as it is for finite values unless it overflows.

    It is taken on this thread alone, as threads write a checkpoint meanwhile. False where NumPy cannot take it.
    """
    if type(values) is not Tensor or values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.add.reduce(values.resolve_neg().numpy(), axis=None)))


def _flag(tensors: list[Tensor], device: torch.device, in_bfloat16: bool) -> Tensor:
    """Return a scalar that is not 0 if a value of `tensors` is not finite."""
    flag = torch.zeros((), dtype=torch.float32, device=device)
    if not in_bfloat16:  # what GradScaler uses: it multiplies by 1, and raises the flag
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, flag, _scalar_one(device))
    elif filled := [tensor for tensor in tensors if tensor.numel()]:  # that does not take bfloat16 on a CUDA device
        flag = ~torch.stack(torch._foreach_norm(filled, torch.inf)).isfinite().all()
    return flag


@cache
def _scalar_one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float32, device=device)


def _float_values(tensor: Tensor) -> Tensor | None:
    """Return the values of `tensor` that may be NaN or infinite; None for a type that has no such values.

    Of a sharded tensor they are those of this process.
    """
    tensor = local_part(tensor)
    if tensor.is_sparse:
        tensor = tensor._values()  # coalescing would cost a sort
    return tensor.detach() if tensor.is_floating_point() or tensor.is_complex() else None


def _weights_and_statistics(components: nn.ModuleDict) -> Iterator[tuple[str, Tensor]]:
    for name, component in components.items():
        if is_frozen(component):
            continue
        yield from ((f"{name}.{key}", parameter) for key, parameter in component.named_parameters())
        yield from ((f"{name}.{key}", buffer) for key, buffer in statistics_of(component))
