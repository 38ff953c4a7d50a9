"""The time that updates wait for their batches."""

from collections.abc import Iterator
from time import perf_counter

from ..interfaces.dataset import Batch


class WaitTimer:
    """Measures which share of the updates' time is spent waiting for batches.

    What happens between two updates (saving, evaluating) does not count.
    """

    def __init__(self) -> None:
        self._began = self._waited = self._total = 0.0

    def of_update(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of an update, whose time starts when the first one is requested."""
        self._began = asked = perf_counter()
        for batch in batches:
            self._waited += perf_counter() - asked
            yield batch
            asked = perf_counter()

    def end_update(self, start_over: bool) -> float:
        """End the time of an update; return the share of all updates since the timer was made or started over."""
        self._total += perf_counter() - self._began
        share = self._waited / self._total if self._total else 0.0
        if start_over:
            self._waited = self._total = 0.0
        return share
