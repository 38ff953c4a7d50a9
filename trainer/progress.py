"""The live progress of a run in the terminal."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.updates import Report


class RunProgress:
    """A progress bar with rate, losses and lr by component; on a pipe only what `say` is given."""

    def __init__(self, console: Console, done: int, total: int) -> None:
        columns = (
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task("", total=total, completed=done)
        self._started, self._first = time.monotonic(), done

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def rate(self, step: int) -> float:
        """Return the updates a second since the start, after update `step`."""
        return (step + 1 - self._first) / max(time.monotonic() - self._started, 1e-9)

    def show(self, report: Report) -> None:
        """Show a logged update."""
        lrs = "  ".join(f"{name} {lr:.1e}" for name, lr in report.lrs.items())
        text = f"{self.rate(report.step):.0f}/s  loss {float(report.outcome.total):.4f}  lr {lrs}"
        self._progress.update(self._task, completed=report.step + 1, description=text)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, highlight=False, soft_wrap=True)
