"""Objectives: the losses to minimise, computed from the components and a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from optimizer import Registry

from .dataset import Batch, DataSet


@dataclass(frozen=True)
class Outcome:
    """The losses and metrics of a batch."""

    losses: Mapping[str, Tensor]
    """Scalar tensors by name, the means over the batch."""
    metrics: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]] = field(default_factory=dict)
    """Scalar tensors or numbers by name, the means over the batch, or a function that returns them. In training the
    function is called only when its metrics are logged, or waited for."""

    def measured(self) -> Mapping[str, Tensor]:
        """Return the metrics by name."""
        return self.metrics() if callable(self.metrics) else self.metrics

    @property
    def total(self) -> Tensor:
        """The sum of the losses."""
        first, *rest = self.losses.values()
        return sum(rest, start=first)


def loss_problem(outcome: object) -> str | None:
    """Return the reason why `outcome` is not an Outcome whose losses are scalars; None if it is one."""
    if not isinstance(outcome, Outcome):
        return f"got a {type(outcome).__name__}"
    if not isinstance(outcome.losses, Mapping) or not outcome.losses:
        return f"its losses are {outcome.losses!r}"
    return _value_problem("loss", outcome.losses, (Tensor,))


def metric_problem(metrics: object) -> str | None:
    """Return the reason why `metrics` are not scalar tensors or numbers by name; None if they are."""
    if not isinstance(metrics, Mapping):
        return f"its metrics are a {type(metrics).__name__}"
    return _value_problem("metric", metrics, (Tensor, int, float))


def _value_problem(kind: str, values: Mapping[str, object], types: tuple[type, ...]) -> str | None:
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            return f"the {kind} {name!r} has shape {list(value.shape)}. Take its mean over the batch."
        if not isinstance(value, types):
            return f"the {kind} {name!r} is a {type(value).__name__}"
    return None


class Updater(Protocol):
    """Steps the optimizers for an objective."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes: mixed precision, if the run uses it."""
        ...

    def step(self, loss: Tensor, *components: str) -> None:
        """Update components by the gradient of `loss`.

        Only these components get gradients, so that an actor's loss leaves alone the critic that it goes through.
        Several processes step the same components in the same order, whatever their samples are.

        Args:
            loss: A scalar.
            components: Names, each once. A frozen component is skipped. Without a name, all components whose turn it is
                by the `every` of their optimizers are updated.
        """
        ...

    def is_due(self, component: str) -> bool:
        """Return whether this update is the component's turn, by the `every` of its optimizer.

        An objective asks before it computes the loss of an actor that is stepped at every second update, for example.
        """
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the samples of the whole batch, those in other processes included.

        A loss is a mean over samples. Where the loss of one sample depends on a mean over the batch (a scale, a
        baseline), several processes give the result of one if that mean is taken here: it is the same in all of them.
        In a run of one process it is `values.mean()`. All processes call this in the same order.

        Args:
            values: Floating-point numbers (N, …) of the samples of this process. If they have a graph, the gradients
                of the losses of all processes pass through the mean: then each of them uses it in a loss.
        """
        ...


class Objective(ABC):
    """Wires the components together and computes the losses to minimise."""

    means_over_samples: ClassVar[bool] = True
    """Whether losses and metrics are means over the samples of the batch, so that each sample weighs the same in an
    update of several batches and in an evaluation. An objective with false (sums, for instance) is refused if batches
    of different sizes would be averaged, and by several processes."""
    steps_in_turn: ClassVar[bool] = False
    """Whether `update` computes a loss with weights that it has moved before in the same update. An update of several
    batches would then differ from that of their samples in one batch, and `train.accumulate` is refused."""

    def targets(self) -> Mapping[str, str]:
        """Return the components that must be a moving average (`ema_of`), each with the component that it averages."""
        return {}

    def always_stepped(self) -> Collection[str]:
        """Return the components that every update steps, whose optimizers cannot have an `every` above 1."""
        return ()

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:  # noqa: B027 most objectives need none
        """Look at the components and the data before the first update.

        Raises:
            ConfigError: They do not fit.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state that updates change in this object.

        It consists of tensors, plain values, and nested dicts, lists and tuples of them. Each checkpoint holds it, and
        a resume hands it to `load_state_dict` before the first update. An objective that does not define this method
        has the state of the nn.Modules that it is or has as attributes, components aside.
        """
        return nn.Module.state_dict(self) if isinstance(self, nn.Module) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Take over a state that `state_dict` returned.

        Raises:
            ValueError: The class has no state, and this is one. An override may raise anything.
        """
        if isinstance(self, nn.Module):
            return nn.Module.load_state_dict(self, state)
        if state:
            raise ValueError(f"{type(self).__name__} has no load_state_dict, and this state: {', '.join(state)}")
        return None

    @abstractmethod
    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the losses and metrics of `batch`. Called for held-out data too, without gradients."""

    def update(self, components: nn.ModuleDict, batch: Batch, learner: Updater, step: int = 0) -> Outcome:
        """Learn from `batch` by one loss for all components.

        An objective with several backward passes overrides this method and calls `learner.step` for each, in its own
        order. It may change the weights of a target component between them. An override may leave out `step`.

        Args:
            components: The components by name.
            batch: A batch on the device of the components.
            learner: Steps the optimizers.
            step: Number of the update, from 0.

        Returns:
            The losses and metrics to log.
        """
        with learner.autocast():
            outcome = self.losses(components, batch)
        learner.step(outcome.total)
        return outcome


@runtime_checkable
class Predicts(Protocol):
    """An objective that is not a policy, but computes outputs that `innerstep export` can write as a script."""

    def predict(self, components: nn.ModuleDict, batch: Batch) -> Tensor | Mapping[str, Tensor]:
        """Return the outputs (N, …) for a batch, of which it reads the inputs only, or several by name."""
        ...


HELD_OUT_PREFIX = "val_"
"""Prefix of a held-out metric's name, as a `monitor` has it."""
TRAIN_PREFIX = "train_"
"""Prefix of a training metric's name, as a `monitor` has it."""

OBJECTIVE_REGISTRY: Registry[Objective] = Registry("objective", Objective, entry_points="innerstep.objectives")
"""Classes of objectives by key."""


def own_modules(objective: Objective) -> dict[str, nn.Module]:
    """Return the modules of an objective by name: itself, named "", if it is one, else those among its attributes."""
    if isinstance(objective, nn.Module):
        return {"": objective}
    return {name: value for name, value in vars(objective).items() if isinstance(value, nn.Module)}
