"""A run stopped by signals: the first one stops it after a checkpoint, a second one at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

SIGNALS = tuple(
    signal.Signals(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # a lost terminal; warnings
    if hasattr(signal, name)  # Windows lacks the last four
)
"""Signals that ask a run to stop."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Signals that end it at once if they come again. The others are warnings, which a scheduler may follow by SIGTERM."""


_Handler = Callable[[int, FrameType | None], object] | int | None


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, it does not keep a later run in this process from taking the signal."""


class StoppedBySignal(KeyboardInterrupt):
    """A run stopped early because a signal asked for it; its checkpoint is written."""


class Interruption:
    """While entered, the first of SIGNALS is kept in `signal`, and a second SIGINT or SIGTERM has its usual effect.

    A signal that the process ignores (SIGHUP under nohup) stays ignored. Only the main thread gets signals; in another
    one nothing is changed.

    Args:
        is_alone: Whether no other process trains the run. If one does, a second signal is another copy of the first:
            schedulers send SIGTERM to each process, and torchrun then passes its own on; and Linux sends the signal for
            a parent that was killed once for each of its threads. The launcher ends processes that take too long. After
            an error SIGTERM has no effect outside of runs then, so that the process can report it.
    """

    def __init__(self, is_alone: bool = True) -> None:
        self.signal: signal.Signals | None = None
        self.is_at_once = False
        """Whether a second SIGINT or SIGTERM has come."""
        self._is_alone, self._stop_requested = is_alone, False
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            active = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in active}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self._is_alone and signal.SIGTERM in self._before:
            # torchrun sends it as soon as another process has ended: this one has yet to report its error.
            self._before[signal.SIGTERM] = _pass_over
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number in _STOPPING and self._stop_requested and self._is_alone:
            self.is_at_once = True
            self._restore()
            signal.raise_signal(number)  # on Windows os.kill would end the process at once
        self._stop_requested = self._stop_requested or number in _STOPPING
        self.signal = self.signal or signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if number == self.signal and number.name == "SIGXCPU":  # it comes each second from now on
                handler = signal.SIG_IGN
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's
        self._before = {}
