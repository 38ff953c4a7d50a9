"""Which checkpoint a run is taken up from, and what follows from each finding about one.

Foreign files are ignored, with a note. One that cannot be read, or that a newer innerstep wrote, stops the run: nothing
is changed, and no older one is taken. Only damage makes a run go back, and what it goes back from is set aside.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NewerFormatError, resume_command
from ..run_layout import CHECKPOINTS, LATEST
from ..runtime.files import DamagedCheckpointError
from .directory import complete_checkpoints, foreign_files, verify
from .health import nonfinite_in, some
from .names import newest_sentence, read_pointer
from .writing import set_aside

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The checkpoint that a run is taken up from; None: from the start. damaged: newer ones, to be set aside."""

    folder: Path | None
    damaged: list[Path] = field(default_factory=list)


def newest_good(run_dir: Path, log: Say) -> Choice:
    """Return the newest checkpoint of a run that is whole, and the damaged ones that were met before it.

    log: prints a line for each damage, and where LATEST names nothing. Raises ConfigError if there are checkpoints
    and all are damaged, UnreadableError and NewerFormatError.
    """
    damaged: list[Path] = []
    checkpoints = run_dir / CHECKPOINTS
    there = complete_checkpoints(checkpoints)
    if os.path.lexists(checkpoints / LATEST) and read_pointer(checkpoints, LATEST) is None:
        instead = f"{there[0].name}, the newest, is looked at" if there else "there is no other: the run begins anew"
        log(f"{checkpoints / LATEST}: names no checkpoint that is there; {instead}")
    for folder in there:
        try:
            manifest = verify(folder)
        except DamagedCheckpointError as error:
            log(f"damaged checkpoint: {error}")
            damaged.append(folder)
        else:
            _describe(folder, manifest, log)
            return Choice(folder, damaged)
    if damaged:
        raise ConfigError(
            f"{run_dir}: every checkpoint is damaged, as said above. Bring one back from a copy, or start the run"
            " over with `innerstep train`."
        )
    return Choice(None)


def asked_for(folder: Path, log: Say) -> Choice:
    """Return the checkpoint in `folder`. Raises ConfigError if it is damaged, UnreadableError and NewerFormatError."""
    try:
        manifest = verify(folder)
    except DamagedCheckpointError as error:
        run = folder.parent.parent
        raise ConfigError(f"damaged checkpoint: {error}\n`{resume_command(run)}` takes the newest good one.") from error
    _describe(folder, manifest, log)
    return Choice(folder)


def set_damaged_aside(choice: Choice, log: Say) -> None:
    """Give the damaged checkpoints that the run goes back from names of their own. Raises OSError."""
    for folder in choice.damaged:
        log(f"{folder}: damaged, and kept as {set_aside(folder).name}")


def foreign_note(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return a line that says which files in a checkpoint's folder are ignored; empty if there are none."""
    names = foreign_files(folder, manifest)
    return f"{folder}: ignored, as not part of the checkpoint: {some(names)}" if names else ""


def nonfinite_weights(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not finite in a checkpoint, which is read unless its manifest says that all is."""
    return [] if manifest.get("finite") is True else nonfinite_in(folder, manifest["files"])


def _describe(folder: Path, manifest: Mapping[str, Any], log: Say) -> None:
    """Say what a user should know of a checkpoint that is whole."""
    if note := foreign_note(folder, manifest):
        log(note)
    names = nonfinite_weights(folder, manifest)
    if names:
        finite = _newest_finite(folder.parent)
        command = "" if finite is None else f" `{resume_command(finite)}` takes it."
        log(f"{folder}: not finite: {some(names)}. {newest_sentence('finite', finite)}{command}")


def _newest_finite(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that is whole and finite, also of those from before manifests said so."""
    for folder in complete_checkpoints(checkpoints):
        try:
            if not nonfinite_weights(folder, verify(folder)):
                return folder
        except (DamagedCheckpointError, NewerFormatError):
            continue
    return None
