"""The averaged weights of a run: moving averages, and optimizers that average weights; and the switch to them.

Schedule-free optimizers step at one sequence of weights and average them into another. Moving averages follow the
weights of a component: they are components (`ema_of`), or those to evaluate and export at (`train.ema`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.config import listed, nearest
from optimizer.types import SwitchesWeights

from ..config.averages import EmaConfig
from ..config.schema import ExperimentConfig
from ..errors import ConfigError
from .moving_averages import MovingAverage
from .target_components import target_average
from .weight_ema import WeightEma


class MovingAverages:
    """The moving averages of a run.

    Args:
        config: The run's.
        components: By name, as they train. Those with `ema_of` have the weights of their source.
        optimizers: By component.

    Raises:
        ConfigError: A component cannot be averaged.
    """

    def __init__(
        self, config: ExperimentConfig, components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]
    ) -> None:
        self._targets: dict[str, tuple[float, MovingAverage]] = {}
        """The share that each target moves by, and the average."""
        self._moved_with: defaultdict[str, list[str]] = defaultdict(list)
        """The targets that move after a step of a component."""
        for name, entry in config.model.components.items():
            if entry.ema_of is not None and entry.tau is not None:
                self._targets[name] = entry.tau, target_average(name, entry.ema_of, components)
                self._moved_with[_mover(name, entry.moves_with, entry.ema_of, optimizers)].append(name)
        self._settings, self.ema = config.train.ema, dict[str, WeightEma]()
        """The averages of `train.ema`, by component."""
        self._left_out: list[str] = []
        if config.train.ema is not None:
            averaging = [name for name, optimizer in optimizers.items() if switches_weights(optimizer)]
            names = _chosen(config.train.ema, list(components), list(optimizers), averaging)
            self._left_out = averaging
            self.ema = {name: WeightEma(components[name], config.train.ema) for name in names}

    def follow(self, name: str) -> None:
        """Move the averages of the component `name`, which has just been stepped."""
        for target in self._moved_with.get(name, ()):
            share, average = self._targets[target]
            average.move(share)
        if (ema := self.ema.get(name)) is not None:
            ema.follow()

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the averages of parameters and running statistics, by name."""
        for name, (_, average) in self._targets.items():
            yield from ((f"{name}.{key}", tensor) for key, tensor in average.tensors.items())
        for name, ema in self.ema.items():
            yield from ((f"{name}.{key} of train.ema", tensor) for key, tensor in ema.tensors.items())

    def plan_lines(self) -> list[str]:
        """Return a line on `train.ema`, if the run has it."""
        if self._settings is None:
            return []
        warmup = "no warm-up" if self._settings.power is None else f"warm-up power {self._settings.power:g}"
        line = f"train.ema: averages of {', '.join(self.ema)}: decay {self._settings.decay:g}, {warmup}"
        if self._left_out:
            optimizers = "its optimizer averages" if len(self._left_out) == 1 else "their optimizers average"
            line += f"; not of {', '.join(self._left_out)}: {optimizers} the weights already"
        return [line]


def _mover(target: str, moves_with: str | None, source: str, optimizers: Mapping[str, Optimizer]) -> str:
    """Return the component whose steps move a target. Raises ConfigError if it takes none."""
    if moves_with is not None and moves_with not in optimizers:
        raise ConfigError(
            f"model.components.{target}.moves_with: {moves_with} has no parameters that train: the average would never"
            f" move. Components that train: {listed(list(optimizers))}."
        )
    return moves_with or source


def _chosen(settings: EmaConfig, components: list[str], trained: list[str], averaging: list[str]) -> list[str]:
    """Return the names of the components to average. Raises ConfigError. averaging: by their optimizers."""
    path = "train.ema.components"
    if settings.components is None:
        if names := [name for name in trained if name not in averaging]:
            return names
        raise ConfigError(f"train.ema: there is nothing to average: {_averages_itself(averaging)}. Set it to null.")
    if not settings.components:
        raise ConfigError(f"{path}: must name a component, or be null for all that train; got []")
    for name in settings.components:
        if name not in components:
            raise ConfigError(
                f"{path}: there is no component {name!r}{nearest(name, trained)} Those that train: {listed(trained)}."
            )
        if name not in trained:
            raise ConfigError(f"{path}: {name} is frozen: its average would be the same weights. Leave it out.")
        if name in averaging:
            raise ConfigError(f"{path}: {_averages_itself([name])}. Leave it out.")
        if settings.components.count(name) > 1:
            raise ConfigError(f"{path}: must name each component once; got {name} twice")
    return [name for name in trained if name in settings.components]


def _averages_itself(names: list[str]) -> str:
    return f"the optimizer of {' and of '.join(names)} averages the weights already"


def switches_weights(optimizer: object) -> TypeGuard[SwitchesWeights]:
    """Return whether `optimizer` has separate weights for training and for evaluation, and can switch."""
    return isinstance(optimizer, SwitchesWeights)


def train_at_training_weights(optimizers: Iterable[Optimizer]) -> None:
    """Switch the optimizers that average weights to the weights for training."""
    for optimizer in filter(switches_weights, optimizers):
        optimizer.train()


@contextmanager
def averaged_weights(optimizers: Iterable[Optimizer], averages: MovingAverages | None = None) -> Iterator[None]:
    """Run the body with the weights to evaluate and export at, then switch back to those for training.

    Args:
        optimizers: Those that average weights switch to the averages.
        averages: Those of `train.ema` take the place of the weights; None, for a checkpoint, which has both: they stay.
    """
    switching = [optimizer for optimizer in optimizers if switches_weights(optimizer)]
    with ExitStack() as stack:
        for optimizer in switching:
            optimizer.eval()
            stack.callback(optimizer.train)
        for ema in averages.ema.values() if averages is not None else ():
            stack.enter_context(ema.exchanged())
        yield
