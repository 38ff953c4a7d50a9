"""How many bytes a run's checkpoints will have, known before the first update."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer import Horizon, ScheduledOptimizer, named_state
from optimizer.factories import trainable_parameters
from optimizer.kernels import implementation_of

from ..config.entries import OptimConfig
from ..config.schema import ExperimentConfig
from ..loop.averaged_weights import MovingAverages, averaged_weights, train_at_training_weights
from ..runtime.rng import separate_rng
from .optimizers import build_over

_SMALL = 2
"""The length of each dimension of a parameter that stands for a larger one."""


@dataclass(frozen=True)
class CheckpointBytes:
    """The bytes of the tensors in a checkpoint. Its other files are small."""

    weights: int
    """Parameters and buffers."""
    averages: int
    """Those of `train.ema`."""
    optimizer_state: int | None
    """Estimated before the first update; None: an optimizer's state is unknown until then."""

    @property
    def total(self) -> int:
        """All that is known."""
        return self.weights + self.averages + (self.optimizer_state or 0)


def checkpoint_bytes(
    config: ExperimentConfig,
    components: nn.ModuleDict,
    optimizers: Mapping[str, Optimizer],
    averages: MovingAverages,
    horizon: Horizon,
) -> CheckpointBytes:
    """Return the bytes of the tensors in each checkpoint of a run.

    Before the first update, an optimizer of each kind makes a step over small parameters in the place of the run's:
    its state has the form of the state to come. Neither the run nor its random numbers are affected.

    Args:
        config: The run's.
        components: By name.
        optimizers: By component.
        averages: The run's.
        horizon: The length of the run.
    """
    weights = [tensor for component in components.values() for tensor in component.state_dict().values()]
    averaged = [tensor for ema in averages.ema.values() for tensor in ema.tensors.values()]
    states: list[int | None] = []
    found: dict[object, int] = {}
    with separate_rng(config.seed):
        for name, optimizer in optimizers.items():
            optim, own = config.model.component_optims[name], config.model.turns(name, horizon).horizon(horizon)
            states.append(_state_bytes(optim, components[name], optimizer, own, found))
    known = [state for state in states if state is not None]
    return CheckpointBytes(_bytes(weights), _bytes(averaged), sum(known) if len(known) == len(states) else None)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def _state_bytes(
    optim: OptimConfig, component: nn.Module, optimizer: Optimizer, horizon: Horizon, found: dict[object, int]
) -> int | None:
    """Return the bytes of an optimizer's state; `found` has those of kinds that were seen before, and gets this one."""
    parameters = trainable_parameters(component)
    try:
        if any(optimizer.state.values()):
            return _bytes([*_saved_state(optimizer).values()])
        shapes = tuple((name, parameter.shape, parameter.dtype) for name, parameter in parameters.items())
        kind = (optim.model_dump_json(), horizon, shapes)
        if kind not in found:
            found[kind] = _state_bytes_to_come(optim, parameters, horizon)
        return found[kind]
    except Exception:  # the optimizer may be the user's, and fail on other parameters than the run's
        return None


def _state_bytes_to_come(optim: OptimConfig, parameters: Mapping[str, nn.Parameter], horizon: Horizon) -> int:
    small = {name: _small_parameter(parameter) for name, parameter in parameters.items()}
    optimizer = build_over([*small.items()], optim, horizon)
    train_at_training_weights([optimizer])
    _step(optimizer)
    total = 0
    for key, tensor in _saved_state(optimizer).items():
        name = key.rpartition("/")[0]
        total += _elements(tensor, small[name], parameters[name]) * tensor.element_size()
    return total


def _step(optimizer: Optimizer) -> None:
    """Make a step, which makes the state.

    It is that of the class, without the decorators of torch.optim, which import torch's compiler and take a second;
    except with steps in C, whose state may have another type.
    """
    if implementation_of(optimizer) == "compiled":
        optimizer.step()
        return
    cls = type(optimizer)
    step: Callable[..., object] = (
        super(ScheduledOptimizer, cls).step if issubclass(cls, ScheduledOptimizer) else cls.step
    )
    with torch.no_grad():
        inspect.unwrap(step)(optimizer)


def _saved_state(optimizer: Optimizer) -> Mapping[str, Tensor]:
    with averaged_weights([optimizer]):  # a checkpoint is written at them
        return named_state(optimizer).tensors


def _small_parameter(parameter: nn.Parameter) -> nn.Parameter:
    shape = [min(length, _SMALL) for length in parameter.shape]
    small = nn.Parameter(torch.ones(shape, dtype=parameter.dtype))
    small.grad = torch.full_like(small, 1e-3)
    return small


def _elements(state: Tensor, small: nn.Parameter, parameter: nn.Parameter) -> int:
    """Return how many elements `state` has for `parameter`, where it is as it is for `small`."""
    if state.ndim != small.ndim:
        return state.numel() if state.numel() <= 1 else state.numel() * parameter.numel() // max(1, small.numel())
    pairs = zip(state.shape, small.shape, parameter.shape, strict=True)
    return prod(whole if length == short else length for length, short, whole in pairs)
