"""The lines of training updates, which are written once the values of all processes are there."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..distributed.world import World
from ..errors import user_code
from ..loop.update_report import UpdateReport
from .metrics_file import training_line
from .metrics_log import MetricsLog
from .progress_bar import RunProgress

_ARRIVAL_SECONDS = 1.0
"""How long a run that fails waits for the values of a line."""


class TrainingLines:
    """Writes a line for each logged update, in their order, and shows the progress.

    A single process writes each line at once. If there are several, each sends its sums when the update is done, and
    trains on; the line is written when those of all are there, mostly one update later. `write` waits for them.

    Used as a context, it writes at a failure of the run what the others had sent before.

    Args:
        world: The processes of the run. All of them call `add` and `write` at the same places.
        metrics: Where lines are written.
        progress: Where updates are shown.
        observe: Called with each update whose values are there, in their order.
    """

    def __init__(
        self, world: World, metrics: MetricsLog, progress: RunProgress, observe: Callable[[UpdateReport], None]
    ) -> None:
        self._world, self._metrics, self._progress, self._observe = world, metrics, progress, observe
        self._waiting: deque[tuple[UpdateReport, float | None]] = deque()

    def __bool__(self) -> bool:
        """Return whether there are lines to write."""
        return bool(self._waiting)

    def add(self, report: UpdateReport, has_line: bool = True) -> None:
        """Begin with the line of a logged update. Its metrics are computed here.

        Args:
            report: The update.
            has_line: Whether it has a line; false: it is only observed.

        Raises:
            UserCodeError: A metric fails.
        """
        with user_code("a metric"):
            self._waiting.append((report.send(), self._progress.rate(report.step) if has_line else None))

    def write_arrived(self) -> None:
        """Write the lines whose values are there.

        Raises:
            SaveError: A sink could not write one, unless train.on_save_error is "continue".
            UserCodeError: The code of a sink fails, or that of a metric.
        """
        while self._waiting and self._waiting[0][0].has_arrived:
            self._write_next()

    def write(self) -> None:
        """Write all lines. Raises as `write_arrived`."""
        while self._waiting:
            self._write_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._world.is_main:
            return
        with suppress(Exception):  # of a run that fails for another reason
            for report, _ in [*self._waiting]:
                if report.sent is None or not report.sent.arrives_within(_ARRIVAL_SECONDS):
                    break
                self._write_next()

    def _write_next(self) -> None:
        report, rate = self._waiting.popleft()
        with user_code("a metric"):
            self._observe(report)
            if rate is None:
                return
            line = training_line(report, rate)
        self._metrics.write(line)
        self._progress.show(line)
