"""The result of an update, with means over the samples of all processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..distributed.exchange import Exchange
from ..distributed.world import World
from ..errors import UserCodeError
from ..interfaces.objective import Outcome, loss_problem, metric_problem
from .sample_means import SampleMeans, Sums, means_of


@dataclass(frozen=True)
class UpdateReport:
    """The result of an update, over all its batches. Without `logged` only step, epoch and sizes are filled in."""

    step: int
    """The number of the update, from 0."""
    epoch: int
    logged: bool
    """Whether the update goes into the metrics."""
    outcomes: Sequence[Outcome]
    """One a batch, of the samples of this process. Their tensors are detached when they are read."""
    sizes: Sequence[int]
    """Samples of each batch, over all processes."""
    lrs: dict[str, float]
    """By component."""
    gradient_metrics: dict[str, Tensor]
    """Scalars, by the key in a line of metrics: `grad_norm/COMPONENT`, the L2 norm before clipping."""
    skipped: dict[str, int]
    """How many updates each component has skipped so far."""
    data_wait: float
    """Share of the time of the updates since the last logged one, this one included, that this process waited for
    batches."""
    world: World = field(default_factory=World)
    """The processes of the run. All of them read the means, at the same place, or call `send` there."""
    sent: Exchange | None = None
    """The sums of all processes on their way; None before `send`, and for a single process."""

    def send(self, room: int) -> Self:
        """Begin to exchange the sums of this process with those of the others.

        Metrics may be the user's code, which runs here.

        Args:
            room: As for `Exchange`.

        Returns:
            A report without the outcomes, which hold memory; for a single process, this one.

        Raises:
            UserCodeError: The outcomes are not as they must be for `losses` and `metrics`.
        """
        if self.world.reports is None:
            return self
        return replace(self, outcomes=(), sent=self.world.gather_later(self._own_sums(), room))

    @property
    def has_arrived(self) -> bool:
        """Whether this process can read the means now, though the others do not."""
        return self.world.is_alone or (self.sent is not None and self.sent.has_arrived)

    @property
    def losses(self) -> dict[str, Tensor]:
        """The mean of each loss over all samples.

        Raises:
            UserCodeError: The objective returned something else than an Outcome of scalar tensors.
        """
        return self._means.losses

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The mean of each metric over all samples of the batches that have it.

        Metrics may be the user's code, which runs here, or where the losses are read first.

        Raises:
            UserCodeError: A metric is not a scalar.
        """
        return self._means.metrics

    @property
    def longest_wait(self) -> float:
        """The largest `data_wait` of a process: all wait for the one that waits the longest."""
        return self._means.longest_wait

    @cached_property
    def _means(self) -> "_Means":
        if self.world.is_alone:
            losses, metrics = self._measured()
            return _Means(self._own_means(losses), self._own_means(metrics), self.data_wait)
        every = self.world.gather(self._own_sums()) if self.sent is None else self.sent.read()
        of_losses, of_metrics, waits = zip(*every, strict=True)
        return _Means(_tensors(means_of(of_losses)), _tensors(means_of(of_metrics)), max(waits))

    def _own_sums(self) -> list[Any]:
        """Return the sums of losses and of metrics in this process, and its wait, which JSON can hold."""
        losses, metrics = self._measured()
        return [self._sums(losses), self._sums(metrics), self.data_wait]

    def _measured(self) -> tuple[list[Mapping[str, Tensor]], list[Mapping[str, Tensor]]]:
        """Return losses and metrics of each batch. Raises UserCodeError."""
        for outcome in self.outcomes:
            _check_outcome(loss_problem(outcome))
            if differ := outcome.losses.keys() ^ self.outcomes[0].losses.keys():
                _check_outcome(f"not each batch of this update has the loss {min(differ)!r}")
        metrics = [outcome.measured() for outcome in self.outcomes]
        for measured in metrics:
            _check_outcome(metric_problem(measured))
        return [outcome.losses for outcome in self.outcomes], metrics

    def _own_means(self, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        means = {}
        for name in dict.fromkeys(name for each in values for name in each):
            having = [(each[name], size) for each, size in zip(values, self.sizes, strict=True) if name in each]
            tensors, sizes = zip(*having, strict=True)
            means[name] = _weighted_mean([torch.as_tensor(value).detach() for value in tensors], sizes)
        return means

    def _sums(self, values: Sequence[Mapping[str, Tensor]]) -> Sums:
        own = SampleMeans()
        for each, size in zip(values, self.sizes, strict=True):
            for name, value in each.items():
                own.add(name, float(torch.as_tensor(value).detach()), len(self.world.share(size)))
        return own.sums


@dataclass(frozen=True)
class _Means:
    """The means of an update over all processes, after one exchange."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    longest_wait: float


def _tensors(means: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}


def _check_outcome(problem: str | None) -> None:
    if problem is not None:
        raise UserCodeError(f"train.objective: its update must return an Outcome of scalar tensors; {problem}")


def _weighted_mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    stacked = torch.stack(list(values))
    if not stacked.is_floating_point():  # counts and booleans
        stacked = stacked.double()
    if len(set(sizes)) == 1:
        return stacked.mean(0)
    return (stacked * torch.tensor(sizes, device=stacked.device)).sum(0) / sum(sizes)
