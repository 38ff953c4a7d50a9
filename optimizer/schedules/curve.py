"""The values of a schedule by its steps. Some curves are moved by metrics."""

from abc import ABC, abstractmethod
from typing import Protocol

from ..types import StateDict


class Curve(Protocol):
    """Values by the number of the schedule's step, an update unless the schedule has an interval or a frequency."""

    def lr_at(self, update: int, /) -> float:
        """Return the learning rate, or the factor, at a step."""
        ...

    def momentum_at(self, update: int, /) -> float | None:
        """Return the momentum (beta1) at a step; None leaves it unchanged."""
        ...


class MetricCurve(ABC):
    """A curve that metrics may move. One optimizer follows it."""

    @abstractmethod
    def lr_at(self, update: int) -> float:
        """Return the learning rate, or the factor, at a step, given the metrics so far."""

    def momentum_at(self, update: int) -> float | None:
        """Return the momentum (beta1) at a step; None leaves it unchanged."""
        return None

    @abstractmethod
    def monitors(self) -> set[str]:
        """Return the names of the metrics that move this curve."""

    @abstractmethod
    def report(self, name: str, value: float, update: int) -> None:
        """Take a metric that was measured when `update` steps were done."""

    @abstractmethod
    def metric_state(self) -> StateDict:
        """Return the effect of the metrics so far, as plain values."""

    @abstractmethod
    def load_metric_state(self, state: StateDict) -> None:
        """Restore the effect of the metrics.

        Args:
            state: From `metric_state`.

        Raises:
            KeyError: Another kind of curve returned `state`.
        """
