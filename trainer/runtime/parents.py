"""A process that ends when its parent is gone, also when the parent was killed."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Let the system send this process a signal when its parent ends. Only Linux does.

    Precisely, the signal comes when the thread that started this process ends.

    Args:
        number: The signal. It comes at once if the parent ended during this call.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
