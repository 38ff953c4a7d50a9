"""Means of losses and metrics over the samples of all processes."""

from collections.abc import Iterable, Mapping, Sequence

from ..distributed.world import World

Sums = Mapping[str, Sequence[float]]
"""By name, the sum of a value over samples and their number, which JSON can hold."""


class SampleMeans:
    """The means of values by name, each over the samples of the batches that have it, in this process or in others.

    Args:
        sums: Those to continue from.
    """

    def __init__(self, sums: Sums | None = None) -> None:
        self._sums = {name: (total, samples) for name, (total, samples) in (sums or {}).items()}

    @property
    def sums(self) -> Sums:
        """The sums over the samples of this process, for the others."""
        return self._sums

    def add(self, name: str, mean: float, samples: int) -> None:
        """Add the mean over some samples; without samples, nothing."""
        if samples:
            self._add(name, mean * samples, samples)

    def over(self, world: World) -> dict[str, float]:
        """Return the means over the samples of all processes, the same in each. All of them call."""
        return means_of(world.gather(self._sums))

    def _add(self, name: str, total: float, samples: float) -> None:
        before, number = self._sums.get(name, (0.0, 0))
        self._sums[name] = before + total, number + samples


def means_of(every: Iterable[Sums]) -> dict[str, float]:
    """Return the means over the samples of all processes. every: the sums of each of them, by rank."""
    joint = SampleMeans()
    for sums in every:
        for name, (total, samples) in sums.items():
            joint._add(name, total, samples)
    return {name: total / samples for name, (total, samples) in joint._sums.items()}
