"""An objective that fails on one process of several, in several ways. A run finds it by its dotted path."""

import os
import signal
import time

from sample_parts import Regression


def rank():
    """Return the number of this process."""
    return int(os.environ.get("RANK", "0"))


class FailsOnARank(Regression):
    """Does `what` on process `where` in update `at`, of the first attempt that torchrun makes."""

    def __init__(self, what: str = "", where: int = 1, at: int = 6, always: bool = False, pause: float = 0.0) -> None:
        self._what, self._where, self._at, self._always, self._pause = what, where, at, always, pause

    def update(self, components, batch, learner, step):
        time.sleep(self._pause)
        first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if step == self._at and self._where in (rank(), -1) and (first_attempt or self._always):
            if self._what == "call alone":  # what all processes must call
                learner.mean(batch["x"])
            self._fail()
        return super().update(components, batch, learner)

    def _fail(self):
        match self._what:
            case "raise":
                raise ValueError("a bad sample")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                os._exit(7)
            case "hang":
                while True:
                    time.sleep(0.1)
            case "hold":  # the lock of the interpreter, which other threads wait for
                sum(range(10**11))
            case "interrupt":
                raise KeyboardInterrupt
            case "exit":
                raise SystemExit(5)
