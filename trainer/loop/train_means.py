"""Means of training metrics from one evaluation to the next, for schedules and rules that wait for `train_NAME`."""

from collections.abc import Iterable, Mapping, Sequence

from ..interfaces.objective import TRAIN_PREFIX, Outcome
from .evaluation import named_values
from .sample_means import SampleMeans, means_of
from .update_report import UpdateReport


class TrainMeans:
    """Means over the samples of all updates since the last evaluation.

    Args:
        monitors: The metrics that something waits for, as a `monitor` has them.
    """

    def __init__(self, monitors: Iterable[str]) -> None:
        self._names = {name.removeprefix(TRAIN_PREFIX) for name in monitors if name.startswith(TRAIN_PREFIX)}
        self._means = SampleMeans()

    @property
    def are_waited_for(self) -> bool:
        """Whether something waits for one, so that every update must be measured."""
        return bool(self._names)

    @property
    def sums(self) -> dict[str, list[float]]:
        """The sums so far, as a checkpoint has them: by name the sum of a value, and the samples that have it."""
        return {name: [total, samples] for name, (total, samples) in self._means.sums.items()}

    def restore(self, sums: Mapping[str, Sequence[float]]) -> None:
        """Continue from the sums in a checkpoint."""
        self._means = SampleMeans({name: (float(total), float(samples)) for name, (total, samples) in sums.items()})

    def observe(self, update: UpdateReport) -> None:
        """Add an update, whose values are those of all processes."""
        if not self._names:
            return
        for name, value in named_values(Outcome(update.losses, update.metrics)).items():
            if name in self._names:
                self._means.add(name, float(value), sum(update.sizes))

    def means(self) -> dict[str, float]:
        """Return the means so far, by name as a `monitor` has it."""
        return {TRAIN_PREFIX + name: mean for name, mean in means_of([self._means.sums]).items()}

    def begin_again(self) -> None:
        """Forget the updates so far."""
        self._means = SampleMeans()
