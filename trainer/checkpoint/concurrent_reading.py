"""Reading a checkpoint of a run that trains, and removes checkpoints, at the same time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import UnreadableError
from ..runtime.files import DamagedCheckpointError, stat_of
from .directory import existing_checkpoint

Result = TypeVar("Result")


def read_checkpoint(path: Path, read: Callable[[Path], Result]) -> Result:
    """Call `read` with the folder of a checkpoint, and return its result.

    A run that trains removes checkpoints. If it removes the one being read, missing files are not damage, and the
    checkpoint that `path` leads to now is read.

    Args:
        path: Leads to a checkpoint, as for `existing_checkpoint`.
        read: Reads the checkpoint in a folder.

    Raises:
        ValueError: There is no checkpoint, or it is damaged.
        UnreadableError: The system refuses to read it.
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
    """Return whether a folder was neither removed nor replaced since its `stat_of` returned `before`."""
    now = stat_of(folder)
    return now is not None and before is not None and os.path.samestat(now, before)
