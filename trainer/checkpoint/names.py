"""The names of checkpoints on disk: their folders, and the files LATEST and BEST, which name one."""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from optimizer.config import counted

from ..errors import UnreadableError
from ..run_layout import LATEST
from ..runtime.files import stat_of, unreadable, write_atomically

UNFINISHED = ".unfinished-"
"""Prefix of the folder that a checkpoint is written in, together with the new LATEST."""
STEP = re.compile(r"step_[0-9]+")
"""Names of the folders of checkpoints."""
_MAX_POINTER_BYTES = 1000
"""Size of LATEST and BEST."""


def write_pointer(checkpoints: Path, name: str, folder: Path) -> None:
    """Let the file `name`, LATEST or BEST, name the checkpoint in `folder`.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(checkpoints / name, folder.name + "\n")


def read_pointer(checkpoints: Path, name: str) -> Path | None:
    """Return the folder that the file `name` names; None if there is no such file, or no such folder.

    A checkpoint that has its place, and that LATEST was about to name when the process was killed, counts as named.

    Raises:
        UnreadableError: The system refuses to read the file.
    """
    if name == LATEST and (folder := _moved_before_kill(checkpoints)) is not None:
        return folder
    text = read_step_name(checkpoints / name)
    return checkpoints / text if text is not None and is_folder(checkpoints / text) else None


def read_step_name(path: Path) -> str | None:
    """Return the name of a checkpoint's folder that is in the file `path`; None if there is no such file or name.

    Raises:
        UnreadableError: The system refuses to read the file.
    """
    found = stat_of(path)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_POINTER_BYTES:
        return None
    try:
        text = path.read_bytes().decode().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    return text if STEP.fullmatch(text) else None


def _moved_before_kill(checkpoints: Path) -> Path | None:
    """Return the checkpoint that got its place just before the process that wrote it was killed; None without one."""
    found = []
    with suppress(OSError, UnreadableError):
        for aside in [name for name in os.listdir(checkpoints) if name.startswith(UNFINISHED)]:
            name = pending_name(checkpoints / aside)
            if name is not None and is_folder(checkpoints / name):
                found.append(checkpoints / name)
    return max(found, key=step_of, default=None)


def pending_name(aside: Path) -> str | None:
    """Return the name of the checkpoint that was made in the folder `aside`, was moved out, and LATEST must name next.

    None if no checkpoint is made in that folder, or it is still there.

    Raises:
        UnreadableError: The system refuses to read the file.
    """
    latest = aside / LATEST
    name = None if aside.is_symlink() or latest.is_symlink() else read_step_name(latest)
    return None if name is None or os.path.lexists(aside / name) else name


def folder_name(step: int) -> str:
    """Return the name of the folder of a checkpoint of `step` updates."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the updates done at the checkpoint in `folder`, by its name."""
    return int(folder.name.removeprefix("step_"))


def newest_sentence(kind: str, folder: Path | None) -> str:
    """Return the sentence that names the newest checkpoint of a kind, "complete" or "finite"."""
    newest = "none" if folder is None else f"after {counted(step_of(folder), 'update')}"
    return f"The newest {kind} checkpoint: {newest}."


def is_folder(path: Path) -> bool:
    """Return whether a folder is at `path`, links followed.

    Raises:
        UnreadableError: The system refuses access.
    """
    found = stat_of(path, NotADirectoryError)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: Path) -> bool:
    """Return whether a regular file is at `path`, links followed.

    Raises:
        UnreadableError: The system refuses access.
    """
    found = stat_of(path, NotADirectoryError)
    return found is not None and stat.S_ISREG(found.st_mode)
