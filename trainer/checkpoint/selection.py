"""The checkpoint that a resume starts from, and the consequences of each finding about one.

Foreign files are ignored, with a note. A checkpoint that cannot be read, or that a newer innerstep wrote, stops the
resume: nothing is changed, and no older one is taken. If one is damaged, it is set aside and an older one is taken.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.types import JsonObject

from ..distributed.outcomes import by_main
from ..distributed.world import World
from ..errors import ConfigError, NewerFormatError, resume_command
from ..run_layout import CHECKPOINTS, LATEST
from ..runtime.files import DamagedCheckpointError
from .directory import ALONE, complete_checkpoints, foreign_files, verify
from .health import nonfinite_in_files, shorten_names
from .names import newest_sentence, read_pointer
from .writing import set_aside

Log = Callable[[str], None]
"""Prints a line."""


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run is resumed from."""

    folder: Path | None
    """None: the run has no checkpoint, and starts from the beginning."""
    damaged: list[Path] = field(default_factory=list)
    """Newer checkpoints, which must be set aside."""


def newest_verified(run_dir: Path, log: Log, world: World = ALONE) -> ResumePoint:
    """Return the newest checkpoint of a run that is whole, and the damaged ones that are newer.

    All processes of the run call it together, and share the work.

    Args:
        run_dir: The run's directory.
        log: Prints a line for each damage, and if LATEST names a checkpoint that is not there.
        world: The place of this process.

    Raises:
        ConfigError: There are checkpoints, and all of them are damaged.
        UnreadableError: The system refuses to read a file.
        NewerFormatError: A newer innerstep wrote the checkpoint.
    """
    damaged: list[Path] = []
    checkpoints = run_dir / CHECKPOINTS
    for name in by_main(world, lambda: _candidates(checkpoints, log)):
        folder = checkpoints / name
        try:
            manifest = verify(folder, world)
        except DamagedCheckpointError as error:
            log(f"damaged checkpoint: {error}")
            damaged.append(folder)
        else:
            _log_notes(folder, manifest, log, world)
            return ResumePoint(folder, damaged)
    if damaged:
        raise ConfigError(
            f"{run_dir}: every checkpoint is damaged, as listed above. Bring one back from a copy, or start the run"
            " over with `innerstep train`."
        )
    return ResumePoint(None)


def _candidates(checkpoints: Path, log: Log) -> list[str]:
    """Return the names of a run's checkpoints in the order in which a resume tries them."""
    there = [folder.name for folder in complete_checkpoints(checkpoints)]
    if os.path.lexists(checkpoints / LATEST) and read_pointer(checkpoints, LATEST) is None:
        instead = f"{there[0]}, the newest, is checked" if there else "there is no other: the run begins again"
        log(f"{checkpoints / LATEST}: names no checkpoint that is there; {instead}")
    return there


def verified_point(folder: Path, log: Log, world: World = ALONE) -> ResumePoint:
    """Return the checkpoint in `folder`, which the user chose, after checking its files.

    Args:
        folder: The checkpoint's.
        log: Prints a line, for notes on the checkpoint.
        world: As for `newest_verified`.

    Raises:
        ConfigError: The checkpoint is damaged.
        UnreadableError: The system refuses to read a file.
        NewerFormatError: A newer innerstep wrote the checkpoint.
    """
    try:
        manifest = verify(folder, world)
    except DamagedCheckpointError as error:
        run = folder.parent.parent
        raise ConfigError(f"damaged checkpoint: {error}\n`{resume_command(run)}` takes the newest good one.") from error
    _log_notes(folder, manifest, log, world)
    return ResumePoint(folder)


def set_damaged_aside(point: ResumePoint, log: Log) -> None:
    """Rename the damaged checkpoints that are newer than the resume point.

    Raises:
        OSError: One cannot be renamed.
    """
    for folder in point.damaged:
        log(f"{folder}: damaged, and kept as {set_aside(folder).name}")


def foreign_note(folder: Path, manifest: JsonObject) -> str:
    """Return a line that names the files in a checkpoint's folder that are ignored; empty without such files."""
    names = foreign_files(folder, manifest)
    return f"{folder}: ignored, as not part of the checkpoint: {shorten_names(names)}" if names else ""


def nonfinite_tensors(folder: Path, manifest: JsonObject) -> list[str]:
    """Return the names of a checkpoint's tensors that are not finite.

    Files are read unless the manifest records that all are finite.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
        UnreadableError: The system refuses to read a file.
    """
    return [] if manifest.get("finite") is True else nonfinite_in_files(folder, manifest["files"])


def _log_notes(folder: Path, manifest: JsonObject, log: Log, world: World) -> None:
    """Log the foreign files in a checkpoint's folder, and its tensors that are not finite."""
    for line in by_main(world, lambda: _notes(folder, manifest)):
        log(line)


def _notes(folder: Path, manifest: JsonObject) -> list[str]:
    lines = [note] if (note := foreign_note(folder, manifest)) else []
    names = nonfinite_tensors(folder, manifest)
    if names:
        finite = _newest_finite(folder.parent)
        command = "" if finite is None else f" `{resume_command(finite)}` takes it."
        lines.append(f"{folder}: not finite: {shorten_names(names)}. {newest_sentence('finite', finite)}{command}")
    return lines


def _newest_finite(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that is whole and finite, whether or not its manifest records the latter."""
    for folder in complete_checkpoints(checkpoints):
        try:
            if not nonfinite_tensors(folder, verify(folder)):
                return folder
        except (DamagedCheckpointError, NewerFormatError):
            continue
    return None
