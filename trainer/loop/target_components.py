"""Components that are a moving average of another one: `ema_of` in their entry in the config."""

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optimizer.config import joined, listed
from optimizer.state import compare_shapes, shapes_by_name, torch_name

from ..config.schema import ModelConfig
from ..errors import ConfigError, raised
from ..interfaces.component import is_frozen
from .moving_averages import MovingAverage, followed_tensors, low_precision, other_buffers


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


def target_average(name: str, source: str, components: nn.ModuleDict) -> MovingAverage:
    """Return the average that the component `name` is of the component `source`.

    Raises:
        ConfigError: `source` cannot be averaged.
    """
    path, component = f"model.components.{name}.ema_of", components[source]
    if is_frozen(component):
        raise ConfigError(f"{path}: {source} has no parameters that train: its average would be the same weights")
    if low := low_precision(component):
        raise ConfigError(
            f"{path}: an average of {source} would stand still, as its type rounds small changes away: {listed(low)}."
            " Keep the parameters in float32; train.precision: bf16 computes in bfloat16."
        )
    target = components[name]
    own, places = dict([*target.named_parameters(), *target.named_buffers()]), other_buffers(target)
    weights, buffers = followed_tensors(component), other_buffers(component)
    return MovingAverage(
        {key: (own[key], weight) for key, weight in weights.items()},
        [(places[key], place) for key, place in buffers.items()],
    )
