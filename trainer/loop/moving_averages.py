"""Moving averages of weights: tensors that follow those of a component."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

import torch
from torch import Tensor, nn

from optimizer.factories import trainable_parameters
from optimizer.state import is_sharded, local_part

from .running_statistics import statistics_of

Place = tuple[MutableMapping[str, Tensor | None], str]
"""A dict of buffers and a name in it: a module may put another tensor there."""


class MovingAverage:
    """Tensors that follow the weights of a component: its trainable parameters and persistent buffers.

    Parameters, and buffers of floating-point numbers, are averaged. Other buffers are copied, and so are the values of
    a buffer for which the average is not finite: a mask may hold infinities.

    Args:
        tensors: Pairs of an average, and the parameter or running statistic that it follows, by name.
        buffers: The same for other buffers.
    """

    def __init__(self, tensors: Mapping[str, tuple[Tensor, Tensor]], buffers: Iterable[tuple[Place, Place]]) -> None:
        self.tensors = {name: average for name, (average, _) in tensors.items()}
        """The averages of parameters and running statistics, by name."""
        groups: defaultdict[object, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for average, weight in tensors.values():
            averages, weights = groups[weight.device, weight.dtype, average.dtype, is_sharded(weight)]
            averages.append(average)
            weights.append(weight)
        self._groups = list(groups.values())
        """Averages and weights, of one device and type each: torch moves such tensors in one kernel. Either all of them
        are sharded or none."""
        self._buffers = list(buffers)

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Move by `share` of the way to the present weights: average + share · (weights - average)."""
        for averages, weights in self._groups:
            if is_sharded(weights[0]):  # loading may have put other shards there: none are kept
                averages, weights = ([local_part(each) for each in tensors] for tensors in (averages, weights))
            dtype = averages[0].dtype
            ends = weights if weights[0].dtype == dtype else [weight.to(dtype) for weight in weights]
            torch._foreach_lerp_(averages, ends, share)
        copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        for average, value in self.buffer_values():
            if average.is_floating_point():
                moved = average.lerp(value.to(average.dtype), share)
                average.copy_(torch.where(moved.isfinite(), moved, value))
            else:
                copied[0].append(average)
                copied[1].append(value)
        if copied[0]:
            torch._foreach_copy_(*copied)

    def buffer_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the other buffers: the average, and the component's, which are there now."""
        for (averages, key), (values, other) in self._buffers:
            average, value = averages[key], values[other]
            if average is not None and value is not None:
                yield average, value


def followed_tensors(component: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that train, and the running statistics of floating-point numbers, by name."""
    statistics = {key: buffer for key, buffer in statistics_of(component) if buffer.is_floating_point()}
    return {**trainable_parameters(component), **statistics}


def other_buffers(component: nn.Module) -> dict[str, Place]:
    """Return the places of the other buffers that a state dict has, by name."""
    places, seen = {}, {id(tensor) for tensor in followed_tensors(component).values()}
    for path, module in component.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set and id(buffer) not in seen:
                seen.add(id(buffer))
                places[f"{path}.{key}" if path else key] = (module._buffers, key)
    return places


def low_precision(component: nn.Module) -> list[str]:
    """Return the names of the trainable parameters of fewer than 32 bits, whose average in that type would not move."""
    return [name for name, tensor in trainable_parameters(component).items() if tensor.element_size() < 4]
