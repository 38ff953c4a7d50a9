"""Moving averages of weights, which move after each step of a component: components with `ema_of`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optimizer.config import joined, listed
from optimizer.factories import trainable_parameters
from optimizer.state import compare_shapes, shapes_by_name, torch_name

from ..config.schema import ModelConfig
from ..errors import ConfigError, raised
from .running_statistics import statistics_of

Place = tuple[MutableMapping[str, Tensor | None], str]
"""A dict of buffers and a name in it: a module may put another tensor there."""


class MovingAverage:
    """Tensors that follow the weights of a component: its trainable parameters and persistent buffers.

    Parameters, and buffers of floating-point numbers, are averaged. Other buffers are copied, and so are the values of
    a buffer for which the average is not finite: a mask may hold infinities.

    Args:
        tensors: Pairs of an average, and the parameter or running statistic that it follows.
        buffers: The same for other buffers.
    """

    def __init__(self, tensors: Iterable[tuple[Tensor, Tensor]], buffers: Iterable[tuple[Place, Place]]) -> None:
        groups: defaultdict[object, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for average, weight in tensors:
            averages, weights = groups[weight.device, weight.dtype, average.dtype]
            averages.append(average)
            weights.append(weight)
        self._groups = list(groups.values())
        """Averages and weights, of one device and type each: torch moves such tensors in one kernel."""
        self._buffers = list(buffers)

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Move by `share` of the way to the present weights: average + share · (weights - average)."""
        for averages, weights in self._groups:
            dtype = averages[0].dtype
            ends = weights if weights[0].dtype == dtype else [weight.to(dtype) for weight in weights]
            torch._foreach_lerp_(averages, ends, share)
        copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        for average, value in self._buffer_values():
            if average.is_floating_point():
                moved = average.lerp(value, share)
                average.copy_(torch.where(moved.isfinite(), moved, value))
            else:
                copied[0].append(average)
                copied[1].append(value)
        if copied[0]:
            torch._foreach_copy_(*copied)

    def _buffer_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (averages, key), (values, other) in self._buffers:
            average, value = averages[key], values[other]
            if average is not None and value is not None:
                yield average, value


class MovingAverages:
    """The moving averages of a run.

    Args:
        config: The run's `model`.
        components: By name, as they train. Those with `ema_of` have the weights of their source.

    Raises:
        ConfigError: A component cannot be averaged.
    """

    def __init__(self, config: ModelConfig, components: nn.ModuleDict) -> None:
        self._targets: defaultdict[str, list[tuple[float, MovingAverage]]] = defaultdict(list)
        """By source: the share, and the average."""
        for name, entry in config.components.items():
            if entry.ema_of is not None and entry.tau is not None:
                average = _target(f"model.components.{name}", components[name], entry.ema_of, components[entry.ema_of])
                self._targets[entry.ema_of].append((entry.tau, average))

    def move(self, name: str) -> None:
        """Move the averages of the component `name`, which has just been stepped."""
        for share, average in self._targets.get(name, ()):
            average.move(share)


def start_targets(components: nn.ModuleDict, config: ModelConfig) -> None:
    """Give each component with `ema_of` the weights, buffers and extra state of its source.

    Raises:
        ConfigError: They do not fit.
    """
    for name, entry in config.components.items():
        if entry.ema_of is None or _is_lazy(components[entry.ema_of]):
            continue  # a lazy source is refused later: nothing has given it shapes
        source, target = components[entry.ema_of], components[name]
        problems = [] if _is_lazy(target) else _differences(source, target)
        if not problems:
            try:
                target.load_state_dict(source.state_dict())
            except Exception as error:  # hooks are the user's code, which may raise anything
                problems = [raised(error)]
        if problems:
            raise ConfigError(
                f"model.components.{name}.ema_of: cannot start at the weights of {entry.ema_of}: {joined(problems)}."
                f" If the objective's prepare changes {entry.ema_of}, it must change {name} in the same way."
            )


def _is_lazy(component: nn.Module) -> bool:
    return any(map(is_lazy, component.parameters()))


def _differences(source: nn.Module, target: nn.Module) -> list[str]:
    """Return a line for each tensor in the state dicts whose name, shape or type is not the same in both."""
    saved, own = (
        {key: value for key, value in component.state_dict().items() if isinstance(value, Tensor)}
        for component in (source, target)
    )
    types = [
        f"{key} is {torch_name(value.dtype)}, here {torch_name(own[key].dtype)}"
        for key, value in saved.items()
        if key in own and value.dtype != own[key].dtype
    ]
    return [*compare_shapes(shapes_by_name(saved), shapes_by_name(own)), *types]


def _target(path: str, target: nn.Module, source_name: str, source: nn.Module) -> MovingAverage:
    """Return the average that `target`, a component, is of `source`. Raises ConfigError."""
    parameters = trainable_parameters(source)
    if not parameters:
        raise ConfigError(f"{path}.ema_of: {source_name} has no parameters that train: its average would be the same")
    if low := _low_precision(parameters):
        raise ConfigError(
            f"{path}.ema_of: an average of {source_name} would stand still, as its type rounds small changes away:"
            f" {listed(low)}. Keep the parameters in float32; train.precision: bf16 computes in bfloat16."
        )
    own = dict(target.named_parameters()) | dict(statistics_of(target))
    weights = parameters | _float_statistics(source)
    mine = dict(persistent_buffers(target))
    return MovingAverage(
        [(own[key], weight) for key, weight in weights.items()],
        [(mine[key], place) for key, place in persistent_buffers(source) if key not in weights],
    )


def persistent_buffers(component: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield the buffers of a component that its state dict has, by name: where they are."""
    seen: set[int] = set()
    for path, module in component.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is None or key in module._non_persistent_buffers_set or id(buffer) in seen:
                continue
            seen.add(id(buffer))
            yield f"{path}.{key}" if path else key, (module._buffers, key)


def _float_statistics(component: nn.Module) -> dict[str, Tensor]:
    return {key: buffer for key, buffer in statistics_of(component) if buffer.is_floating_point()}


def _low_precision(parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the parameters of fewer than 32 bits."""
    return [name for name, parameter in parameters.items() if parameter.element_size() < 4]
