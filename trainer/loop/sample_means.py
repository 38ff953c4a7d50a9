"""Means of losses and metrics over the samples of all processes."""

from collections.abc import Iterator

from ..distributed.world import World


class SampleMeans:
    """The means of values by name, each over the samples of the batches that have it, in this process or in others."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, mean: float, samples: int) -> None:
        """Add the mean over some samples; without samples, nothing."""
        if samples:
            total, number = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + mean * samples, number + samples

    def over(self, world: World) -> dict[str, float]:
        """Return the means over the samples of all processes, the same in each. All of them call."""
        every = SampleMeans()
        for sums in world.gather(self._sums):
            for name, (total, number) in sums.items():
                before, samples = every._sums.get(name, (0.0, 0))
                every._sums[name] = before + total, samples + number
        return dict(every._means())

    def _means(self) -> Iterator[tuple[str, float]]:
        yield from ((name, total / number) for name, (total, number) in self._sums.items())
