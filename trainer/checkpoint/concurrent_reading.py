"""Reading a checkpoint of a run that trains, and removes checkpoints, meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import UnreadableError
from ..runtime.files import DamagedCheckpointError, stat_of
from .directory import existing_checkpoint

Result = TypeVar("Result")


def read_checkpoint(path: Path, read: Callable[[Path], Result]) -> Result:
    """Return what `read` returns for the checkpoint that `path` leads to, as in `existing_checkpoint`.

    A run that trains removes checkpoints. If that happens to the one that is read, the next one is: what is missing
    then is not damage.
    """
    while True:
        folder = existing_checkpoint(path)
        before = stat_of(folder)
        try:
            return read(folder)
        except (DamagedCheckpointError, UnreadableError):
            if is_still_there(folder, before):
                raise


def is_still_there(folder: Path, before: os.stat_result | None) -> bool:
    """Return whether a folder was neither removed nor replaced since its `stat_of` was `before`."""
    now = stat_of(folder)
    return now is not None and before is not None and os.path.samestat(now, before)
