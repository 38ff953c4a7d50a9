"""One process at a time for a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.saving import writing

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows, where a run goes without its lock
    fcntl = None

LOCK = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Run the body while no other process does so for this run; a process that dies leaves no lock behind.

    Raises ConfigError if another one is at it, SaveError if the directory cannot be written.
    """
    with writing(run_dir):
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            _take(run_dir, descriptor)
        yield
    finally:
        os.close(descriptor)


def _take(run_dir: Path, descriptor: int) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, it is not the children's too
    except (BlockingIOError, PermissionError):
        other = os.read(descriptor, 20).decode(errors="replace").strip()
        raise ConfigError(f"{run_dir}: process {other} is training this run. Stop it first, or wait for it.") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
