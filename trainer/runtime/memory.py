"""The memory that a run takes."""

import os
import sys
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


def memory_bytes(device: torch.device) -> int | None:
    """Return the bytes that a run takes: on a CUDA device the most so far, else those of the process now.

    Where the system reports only the most so far, it is that; None: it reports nothing.
    """
    if device.type == "cuda":
        try:
            return torch.cuda.max_memory_allocated(device)
        except RuntimeError:  # the display must not end a run
            return None
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_so_far()


def _most_so_far() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
