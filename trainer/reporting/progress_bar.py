"""The progress of a run: a live display in a terminal, or a line now and then on a pipe."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.live import Live

from optimizer.config import counted
from optimizer.types import JsonObject

from ..interfaces.metrics_sink import MetricsLine
from ..runtime.memory import memory_bytes
from ..runtime.terminal import log, on_terminal
from .progress_view import ProgressView, line_on_a_pipe
from .run_status import RunStatus

_FIRST_SECONDS, _MOST_SECONDS = 1.0, 30.0
"""Between two lines on a pipe: at first, and later; twice as long each time."""
_REFRESHES = 2
"""Renderings a second of the live display, which a thread makes."""


class RunProgress:
    """Shows what happens in a run.

    Args:
        console: Where it is shown. It may be quiet.
        status: Events so far. It is kept up to date here.
        device: That of the run, whose memory is shown.
    """

    def __init__(self, console: Console, status: RunStatus, device: torch.device) -> None:
        self.status = status
        self._console = console
        is_seen = not console.quiet  # a live display would take the output of other code too
        self._is_live, self._is_piped = is_seen and on_terminal(console), is_seen and not on_terminal(console)
        view = ProgressView(status, lambda: memory_bytes(device))
        self._live = Live(view, console=console, transient=True, refresh_per_second=_REFRESHES)
        self._next, self._interval = status.started, _FIRST_SECONDS
        self._is_printed = True

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def rate(self, step: int) -> float:
        """Return the updates per second since the start, after update `step`."""
        return (step + 1 - self.status.done) / max(self.status.elapsed(), 1e-9)

    def show(self, line: MetricsLine) -> None:
        """Take the line of a logged update."""
        self.status.take_line(line)
        self._is_printed = False
        if self._is_piped and (now := self.status.line_time) >= self._next:
            self._next, self._interval = now + self._interval, min(2 * self._interval, _MOST_SECONDS)
            self.catch_up()

    def catch_up(self) -> None:
        """Print the line of the last logged update on a pipe, unless it was printed."""
        if self._is_piped and not self._is_printed:
            self._is_printed = True
            log(self._console, line_on_a_pipe(self.status))

    def evaluated(self, step: int, metrics: Mapping[str, float], best: JsonObject) -> None:
        """Take the metrics of the evaluation after `step` updates.

        Args:
            step: Updates done.
            metrics: By name.
            best: The record of the run's best checkpoint; empty: it keeps none.
        """
        self.status.take_evaluation(step, metrics, best)

    def saved(self, step: int) -> None:
        """Note that the checkpoint after `step` updates is on disk. A thread may call it."""
        self.status.saved = step, self.status.clock()
        if self._is_piped:
            self.catch_up()
            log(self._console, f"saved after {counted(step, 'update')}")
