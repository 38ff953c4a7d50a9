"""The live progress of a run in the terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from optimizer.config import visible

from ..loop.update_report import UpdateReport


class RunProgress:
    """A bar with the rate, and below it losses and lr by component. On a pipe it is not shown."""

    def __init__(self, console: Console, done: int, total: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("", total=total, completed=done)
        self._values = Text()
        self._live = Live(Group(self._bar, self._values), console=console, transient=True, refresh_per_second=5)
        self._console = console
        self._started, self._first = time.monotonic(), done

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:  # it would take the output of other code too
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def rate(self, step: int) -> float:
        """Return the updates per second since the start, after update `step`."""
        return (step + 1 - self._first) / max(time.monotonic() - self._started, 1e-9)

    def show(self, report: UpdateReport, rate: float) -> None:
        """Show a logged update. rate: the updates per second after it."""
        self._bar.update(self._task, completed=report.step + 1, description=f"{rate:.1f} updates/s")
        losses = "  ".join(f"{name} {float(loss):.4f}" for name, loss in report.losses.items())
        lrs = "  ".join(f"{name} {lr:.2e}" for name, lr in report.lrs.items())
        self._values.plain = visible(f"{losses}\nlr  {lrs}")
