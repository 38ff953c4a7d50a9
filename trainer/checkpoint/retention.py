"""The checkpoints of a run that are kept, and those that are removed."""

from pathlib import Path

from ..errors import NewerFormatError, UnreadableError
from ..run_layout import BEST
from .directory import complete_checkpoints, is_finite
from .names import read_pointer, step_of
from .writing import clear_leftovers, remove_checkpoints


def superfluous_checkpoints(checkpoints: Path, step: int, keep_last: int | None, best: Path | None) -> list[Path]:
    """Return the checkpoints to remove.

    These are kept: the newest ones, the newest finite one, the best one, those that a newer innerstep wrote, and those
    that this run has not come to.

    Args:
        checkpoints: The folder of the run's checkpoints.
        step: Updates that the run has done.
        keep_last: How many of the newest ones are kept; None: all.
        best: The folder of the best checkpoint, if the run has one.

    Raises:
        UnreadableError: A file that decides it cannot be read.
        NewerFormatError: A newer innerstep wrote one of the newest checkpoints.
    """
    if keep_last is None:
        return []
    done = [folder for folder in complete_checkpoints(checkpoints) if step_of(folder) <= step]
    newest, older = done[:keep_last], done[keep_last:]
    kept = {best, read_pointer(checkpoints, BEST)}  # BEST may name an older one than the best, not saved yet
    if older and not any(map(is_finite, newest)):
        kept.add(next((folder for folder in older if not _is_newer(folder) and is_finite(folder)), None))
    return [folder for folder in older if folder not in kept and not _is_newer(folder)]


def tidy(checkpoints: Path, step: int, keep_last: int | None, best: Path | None) -> str | None:
    """Remove superfluous checkpoints and the files of killed processes, as far as possible.

    Args:
        checkpoints: As for `superfluous_checkpoints`, also the following.
        step: Updates that the run has done.
        keep_last: How many of the newest ones are kept; None: all.
        best: The folder of the best checkpoint, if the run has one.

    Returns:
        A line on a failure, after which the next save tries again; None without one.
    """
    try:
        remove_checkpoints(superfluous_checkpoints(checkpoints, step, keep_last, best))
        clear_leftovers(checkpoints)
    except (OSError, UnreadableError, NewerFormatError) as error:  # the last: among those to keep
        return f"old checkpoints cannot be removed: {error}. Training continues; each save tries again."
    return None


def _is_newer(folder: Path) -> bool:
    """Return whether a newer innerstep wrote the checkpoint."""
    try:
        is_finite(folder)
    except NewerFormatError:
        return True
    return False
