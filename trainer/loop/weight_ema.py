"""`train.ema`: the moving average of a component's weights, and its exchange with the weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from optimizer.state import is_sharded, local_part

from ..config.averages import EmaConfig
from .moving_averages import MovingAverage, Place, followed_tensors, other_buffers


def decay_at(settings: EmaConfig, step: int) -> float:
    """Return the decay at a step of a component, from 0: min(decay, 1 - (1 + step)^-power).

    These are the values of diffusers' `EMAModel` with `use_ema_warmup=True`, and of timm's `ModelEmaV3` with
    `use_warmup=True`, at their `inv_gamma` and `warmup_gamma` of 1: the first step copies the weights. The `EMAModel`
    of Diffusion Policy (Chi et al. 2023) has the same values one step later. Without `power` the decay is the same at
    each step, as in `torch.optim.swa_utils.get_ema_multi_avg_fn`.

    >>> [round(decay_at(EmaConfig(decay=0.5, power=0.75), step), 4) for step in range(4)]
    [0.0, 0.4054, 0.5, 0.5]
    """
    if settings.power is None:
        return settings.decay
    return min(settings.decay, 1 - float((1 + step) ** -settings.power))


class WeightEma(MovingAverage):
    """The average of a component's trainable parameters and floating-point buffers. It starts at the present values.

    The average of a parameter of fewer than 32 bits is kept in float32. Buffers of other types, and frozen parameters,
    have no average: an evaluation uses them as they are.

    Args:
        component: As it trains.
        settings: The run's `train.ema`.
    """

    def __init__(self, component: nn.Module, settings: EmaConfig) -> None:
        self.steps = 0
        """Steps of the component so far."""
        self._settings = settings
        followed = followed_tensors(component)
        averages = {name: _start(weight) for name, weight in followed.items()}
        pairs = [(averages[name], weight) for name, weight in followed.items()]
        self._pairs = [pair for pair in pairs if not is_sharded(pair[1])]
        self._shards = [pair for pair in pairs if is_sharded(pair[1])]
        by_weight = {id(weight): average for average, weight in self._shards}
        self._places = [
            (module._parameters, key, by_weight[id(weight)])
            for module in component.modules()
            for key, weight in module._parameters.items()
            if id(weight) in by_weight
        ]
        """Where sharded weights are, with their averages."""
        places = {name: place for name, place in other_buffers(component).items() if _is_float(place)}
        own: dict[str, Tensor | None] = {name: _start(_value(place)) for name, place in places.items()}
        super().__init__(
            {name: (averages[name], weight) for name, weight in followed.items()},
            [((own, name), place) for name, place in places.items()],
        )

    def follow(self) -> None:
        """Move after a step of the component."""
        self.move(1 - decay_at(self._settings, self.steps))
        self.steps += 1

    def restart(self) -> None:
        """Start again at the present weights."""
        self.steps = 0
        self.move(1.0)

    @contextmanager
    def exchanged(self, exact: bool = False) -> Iterator[None]:
        """Run the body with the averages in the place of the weights, in the same parameters and buffers.

        Nothing is copied, but an average in float32 of a parameter in another type, and the shards of parameters.

        Args:
            exact: Whether each parameter is the average itself, also in float32 and in shards, to save and to load it.
                The component cannot run meanwhile.
        """
        pairs = [*self._pairs, *self.buffer_values()]
        kept = [weight.data for _, weight in pairs]
        averages = [average if exact else average.to(weight.dtype) for average, weight in pairs]
        try:
            for (_, weight), average in zip(pairs, averages, strict=True):
                weight.data = average
            with _replaced(self._places) if exact else _copied(self._shards):
                yield
        finally:
            for (average, weight), data in zip(pairs, kept, strict=True):
                if exact:
                    average.data = weight.data  # loading may have put a tensor of other strides there
                weight.data = data

    def state(self, component: nn.Module) -> dict[str, Tensor]:
        """Return the averages under their names in the component's state dict. They are not copies."""
        weights = component.state_dict()
        with self.exchanged(exact=True):
            averages = component.state_dict()
        return {
            name: average
            for name, average in averages.items()
            if isinstance(average, Tensor) and not _is_same(average, weights.get(name))
        }


@contextmanager
def _copied(shards: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Run the body with the values of averages in sharded weights, whose memory is what forward passes gather from."""
    if not shards:
        yield
        return
    with torch.no_grad():
        averages, weights = ([local_part(tensor) for tensor in tensors] for tensors in zip(*shards, strict=True))
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)


@contextmanager
def _replaced(places: Sequence[tuple[dict[str, nn.Parameter | None], str, Tensor]]) -> Iterator[None]:
    """Run the body with parameters that are the averages in the places of sharded ones."""
    kept = [parameters[key] for parameters, key, _ in places]
    try:
        for parameters, key, average in places:
            parameters[key] = nn.Parameter(average, requires_grad=False)
        yield
    finally:
        for (parameters, key, _), weight in zip(places, kept, strict=True):
            parameters[key] = weight


def _start(tensor: Tensor) -> Tensor:
    average = tensor.detach().clone()
    return average.float() if average.is_floating_point() and average.element_size() < 4 else average


def _value(place: Place) -> Tensor:
    value = place[0][place[1]]
    assert value is not None, "other_buffers leaves those out"
    return value


def _is_float(place: Place) -> bool:
    return _value(place).is_floating_point()


def _is_same(one: Tensor, other: object) -> bool:
    """Return whether `other` is the same memory as `one`."""
    if is_sharded(one):  # an empty shard has no address: its storage is compared
        storages = [local_part(each).untyped_storage()._cdata for each in (one, other) if isinstance(each, Tensor)]
        return len(storages) == 2 and storages[0] == storages[1]
    return isinstance(other, Tensor) and one.data_ptr() == other.data_ptr() and one.shape == other.shape
