"""What is minimised: an objective gets the components and a batch, and returns named losses."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from optimizer import Registry

from .dataset import Batch, DataSet


@dataclass(frozen=True)
class Outcome:
    """What a batch gave.

    losses, metrics: scalar tensors by name, the means over the batch; a metric may be a number. The metrics may be a
    function that makes them of what is there already: in training they are only asked for where they are logged.
    """

    losses: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]] = field(default_factory=dict)

    def measured(self) -> Mapping[str, Tensor]:
        """Return the metrics by name."""
        return self.metrics() if callable(self.metrics) else self.metrics

    @property
    def total(self) -> Tensor:
        """The sum of the losses."""
        first, *rest = self.losses.values()
        return sum(rest, start=first)


def loss_problem(outcome: Any) -> str | None:
    """Return what keeps `outcome` from being an Outcome whose losses are scalars, or None."""
    if not isinstance(outcome, Outcome):
        return f"got a {type(outcome).__name__}"
    if not isinstance(outcome.losses, Mapping) or not outcome.losses:
        return f"its losses are {outcome.losses!r}"
    return _problem("loss", outcome.losses, Tensor)


def metric_problem(metrics: Any) -> str | None:
    """Return what keeps `metrics` from being scalar tensors or numbers by name, or None."""
    if not isinstance(metrics, Mapping):
        return f"its metrics are a {type(metrics).__name__}"
    return _problem("metric", metrics, Tensor | int | float)


def _problem(kind: str, values: Mapping[Any, Any], taken: Any) -> str | None:
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            return f"the {kind} {name!r} has shape {list(value.shape)}. Take its mean over the batch."
        if not isinstance(value, taken):
            return f"the {kind} {name!r} is a {type(value).__name__}"
    return None


class Updater(Protocol):
    """What an objective is handed to learn with."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes: mixed precision where the run asks for it."""
        ...

    def step(self, loss: Tensor, *components: str) -> None:
        """Update the named components by the gradient of `loss`, save frozen ones; without a name, all whose turn it
        is by the `every` of their optimizers.

        Only they get gradients, so that an actor's loss leaves the critic that it goes through alone.
        """
        ...


class Objective(ABC):
    """How components are wired together, and what is minimised.

    means_over_samples: whether losses and metrics are means over the samples of the batch, so that each sample weighs
    the same in an update of several batches and in an evaluation. One that sets it to false (sums, for instance) is
    refused where batches of different sizes would be averaged.
    """

    means_over_samples: ClassVar[bool] = True

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:  # noqa: B027 most objectives need none
        """Look at the components and the data before the first update. Raises ConfigError if they do not fit."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what updates change in this object: tensors, plain values, and nested dicts, lists and tuples of them.

        Each checkpoint holds it, and a resume hands it to `load_state_dict` before the first update. An objective that
        does not define it has the state of the nn.Modules that it is or has as attributes, components aside.
        """
        return nn.Module.state_dict(self) if isinstance(self, nn.Module) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Take over a state that `state_dict` returned. Raises anything for one that does not fit."""
        if isinstance(self, nn.Module):
            return nn.Module.load_state_dict(self, state)
        if state:
            raise ValueError(f"{type(self).__name__} has no load_state_dict, and this state: {', '.join(state)}")
        return None

    @abstractmethod
    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the losses and metrics of `batch`. Called for held-out data too, without gradients."""

    def update(self, components: nn.ModuleDict, batch: Batch, learner: Updater, step: int = 0) -> Outcome:
        """Learn from `batch` in update number `step`, counted from 0: one loss for all components.

        An objective with several backward passes overrides this and calls `learner.step` for each, in
        its own order; what it does to a target component's weights between them is its own affair. An override
        may leave out `step`.
        """
        with learner.autocast():
            outcome = self.losses(components, batch)
        learner.step(outcome.total)
        return outcome


HELD_OUT_PREFIX = "val_"
"""The prefix of the name of a held-out metric, as a `monitor` names it."""

OBJECTIVE_REGISTRY: Registry[Objective] = Registry("objective", Objective, entry_points="innerstep.objectives")
