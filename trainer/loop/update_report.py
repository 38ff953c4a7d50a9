"""The result of an update, with means over the samples of all processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..distributed.world import World
from ..errors import UserCodeError
from ..interfaces.objective import Outcome, loss_problem, metric_problem
from .sample_means import SampleMeans


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
    """The processes of the run. All of them read `losses`, `metrics` and `longest_wait`, in this order."""

    @cached_property
    def losses(self) -> dict[str, Tensor]:
        """The mean of each loss over all samples.

        Raises:
            UserCodeError: The objective returned something else than an Outcome of scalar tensors.
        """
        for outcome in self.outcomes:
            _check_outcome(loss_problem(outcome))
            if differ := outcome.losses.keys() ^ self.outcomes[0].losses.keys():
                _check_outcome(f"not each batch of this update has the loss {min(differ)!r}")
        return self._means([outcome.losses for outcome in self.outcomes])

    @cached_property
    def metrics(self) -> dict[str, Tensor]:
        """The mean of each metric over all samples of the batches that have it.

        Metrics may be the user's code, which runs here.

        Raises:
            UserCodeError: A metric is not a scalar.
        """
        measured = [outcome.measured() for outcome in self.outcomes]
        for metrics in measured:
            _check_outcome(metric_problem(metrics))
        return self._means(measured)

    @cached_property
    def longest_wait(self) -> float:
        """The largest `data_wait` of a process: all wait for the one that waits the longest."""
        waits: list[float] = self.world.gather(self.data_wait)
        return max(waits)

    def _means(self, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        if not self.world.is_alone:
            return self._means_over_processes(values)
        means = {}
        for name in dict.fromkeys(name for each in values for name in each):
            having = [(each[name], size) for each, size in zip(values, self.sizes, strict=True) if name in each]
            tensors, sizes = zip(*having, strict=True)
            means[name] = _weighted_mean([torch.as_tensor(value).detach() for value in tensors], sizes)
        return means

    def _means_over_processes(self, values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        own = SampleMeans()
        for each, size in zip(values, self.sizes, strict=True):
            for name, value in each.items():
                own.add(name, float(torch.as_tensor(value).detach()), len(self.world.share(size)))
        return {name: torch.tensor(mean, dtype=torch.float64) for name, mean in own.over(self.world).items()}


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
