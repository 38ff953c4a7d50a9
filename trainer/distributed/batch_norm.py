"""Normalization layers whose statistics over a batch are those of the samples of all processes."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.overrides import TorchFunctionMode

from ..errors import ConfigError
from ..runtime.precision import at_least_float32
from .sums import counted, sum_over
from .world import World

_WORLD = "_innerstep_world"
"""Attribute of the layers that `share_statistics` was called with."""


def share_statistics(world: World, modules: Iterable[nn.Module]) -> None:
    """Let each BatchNorm and InstanceNorm layer among `modules` take its statistics over the samples of all processes.

    They do so inside of `World.computing`, and elsewhere take them over the samples that they are given, as before. A
    layer's class is replaced by a subclass of the same name. In a world of one nothing happens.
    """
    if world.is_alone:
        return
    for module in modules:
        if isinstance(module, _NormBase) and _WORLD not in vars(module):
            vars(module)[_WORLD] = world
            own_class: Any = type(module)
            module.__class__ = _sharing_class(own_class)


@cache
def _sharing_class(cls: Any) -> type[_NormBase]:
    """Return the subclass of `cls` that takes statistics over all processes."""
    # torch's SyncBatchNorm counts each process alike, needs a GPU, and has the place of a plain BatchNorm here.
    inner: Any = _BatchNorm.forward if issubclass(cls, nn.SyncBatchNorm) else cls.forward

    def forward(self: _NormBase, *args: Any, **kwargs: Any) -> Any:
        world: World = vars(self)[_WORLD]
        if world.counts is None or not (self.training or self.running_mean is None):
            return inner(self, *args, **kwargs)
        with _OverAllProcesses(world) as mode:
            output = inner(self, *args, **kwargs)
        if not mode.was_called:
            raise ConfigError(
                f"model: {cls.__name__} computes statistics over a batch in another way than by torch's batch_norm, so"
                f" that {world.size} processes would have different ones. Train in one process, or take another layer."
            )
        return output

    # Collectives cannot be compiled into a graph that autograd passes through.
    apart = torch.compiler.disable(forward, reason="statistics of all processes")  # type: ignore[no-untyped-call]  # torch
    return type(cls.__name__, (cls,), {"forward": apart, "__module__": cls.__module__, "__doc__": cls.__doc__})


class _OverAllProcesses(TorchFunctionMode):
    """Takes the statistics of `batch_norm` and `instance_norm`, as called in the body, over all processes.

    What a layer does beside these calls (momentum, counting of batches, an activation) stays as it is.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.was_called = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        shared = _SHARED.get(func)
        if shared is None:
            return func(*args, **(kwargs or {}))
        self.was_called = True
        return shared(self._world, *args, **(kwargs or {}))


def batch_norm(
    world: World,
    input: Tensor,  # noqa: A002 the names are those of torch's function
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `torch.nn.functional.batch_norm` of the samples of all processes, for those of this one.

    Raises:
        ValueError: All processes together have one value a channel.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.autocast(input.device.type, enabled=False):
        wide = at_least_float32(input)
        mean, variance, count = _moments(world, wide)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight.double()
        shift = -mean * scale if bias is None else bias.double() - mean * scale
        shape = [1, -1, *[1] * (wide.dim() - 2)]
        return torch.addcmul(shift.to(wide.dtype).view(shape), wide, scale.to(wide.dtype).view(shape)).to(input.dtype)


def instance_norm(
    world: World,
    input: Tensor,  # noqa: A002 the names are those of torch's function
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `torch.nn.functional.instance_norm`, whose running statistics are means over the samples of all processes.

    A sample is normalized by itself.
    """
    output = F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if use_input_stats and running_mean is not None and running_var is not None:
        with torch.no_grad():
            own = torch.cat([running_mean, running_var, running_mean.new_ones(1)]).double()
            summed = sum_over(world, counted(own * len(input), bool(world.counts)))
            means = (summed[:-1] / summed[-1]).to(running_mean.dtype)
            running_mean.copy_(means[: len(running_mean)])
            running_var.copy_(means[len(running_mean) :])
    return output


def _moments(world: World, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel (C), and the number of its values in all processes, float64.

    Each process sends its own mean and variance: sums of squares would lose digits.
    """
    own_count = values.numel() // values.size(1)
    is_counted = bool(world.counts) and own_count > 0
    variance, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
    count = mean.new_full((1,), own_count if is_counted else 0, dtype=torch.float64)
    own = torch.cat([counted(torch.cat([mean, variance]).double(), is_counted), count])
    rows = torch.zeros(world.size, len(own), dtype=own.dtype, device=own.device)
    rows = sum_over(world, rows.index_copy(0, torch.tensor([world.rank], device=own.device), own.unsqueeze(0)))
    means, variances, counts = torch.split(rows, [len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    if own_count <= 1 and total <= 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {values.size()} in one process"
        )
    shares = counts / total
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), total


_SHARED: Mapping[Any, Callable[..., Tensor]] = {F.batch_norm: batch_norm, F.instance_norm: instance_norm}
"""The functions that take the place of torch's."""
