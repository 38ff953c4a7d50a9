"""Checkpoints on disk: where they are, and whether each is as it was written."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from optimizer.config import bounded, shown, shown_value

from ..distributed.outcomes import by_each
from ..distributed.world import Place, World
from ..errors import NewerFormatError
from ..run_layout import BEST, CHECKPOINTS, CONFIG, LATEST, MANIFEST, WEIGHTS
from ..runtime.files import DamagedCheckpointError, checksum, checksum_of, read_json, reading, stat_of, unreadable
from .names import STEP, is_file, is_folder, read_pointer, step_of

ALONE = World()
"""The only process of a run."""

FORMAT_VERSION = 1
_TRIES = 5

Files = Mapping[str, Mapping[str, Any]]
"""The content of a checkpoint's files by path: tensors for .safetensors, plain values for .json."""


def is_run(path: Path) -> bool:
    """Return whether `path` is a run's directory: it holds a folder of checkpoints and is not a checkpoint itself.

    A component may be called `checkpoints`: its weights distinguish it from a run's folder of checkpoints.
    """
    if not is_folder(path / CHECKPOINTS) or is_file(path / CHECKPOINTS / WEIGHTS):
        return False
    if is_file(path / CONFIG):
        return True
    return not is_file(path / MANIFEST) and STEP.fullmatch(path.name) is None


def checkpoint_at(path: Path) -> Path | None:
    """Return the folder of a checkpoint, or None if `path` does not lead to one.

    Args:
        path: The folder of a checkpoint, LATEST or BEST, or a run, of which the newest checkpoint is returned.

    Raises:
        ValueError: The run has no checkpoint, or LATEST or BEST names one that is not there.
        UnreadableError: The system refuses to read a file.
    """
    if path.name in (LATEST, BEST) and is_file(path):
        folder = read_pointer(path.parent, path.name)
        if folder is None:
            raise ValueError(f"{path}: names no checkpoint that is there. Give the run, or one of its checkpoints.")
        return folder
    if is_run(path):
        folders = complete_checkpoints(path / CHECKPOINTS)
        if not folders:
            raise ValueError(f"{path}: this run has no checkpoint yet")
        return folders[0]
    is_named = STEP.fullmatch(path.name) is not None and is_folder(path)
    if is_named and is_file(path.parent / MANIFEST):  # a component of that name
        return None
    return path if is_named or is_file(path / MANIFEST) else None


def existing_checkpoint(path: Path) -> Path:
    """Return the folder of the checkpoint that `path` leads to, as `checkpoint_at` does.

    Raises:
        ValueError: There is none.
        UnreadableError: The system refuses to read a file.
    """
    folder = checkpoint_at(path)
    if folder is None:
        raise ValueError(
            f"{path}: there is no checkpoint here. Give a run, one of its checkpoints/step_… folders, or its"
            f" checkpoints/{LATEST} or checkpoints/{BEST}."
        )
    return folder


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the folders of finished checkpoints in the order in which a resume tries them.

    First the one that LATEST names, then those before it, the newest first, and then those after it, which a resume
    from an earlier one left behind.

    Raises:
        UnreadableError: The folder or LATEST cannot be read.
    """
    folders = sorted(_folders(checkpoints), key=step_of, reverse=True)
    latest = read_pointer(checkpoints, LATEST)
    if latest is None:
        return folders
    return [folder for folder in folders if step_of(folder) <= step_of(latest)] + [
        folder for folder in folders if step_of(folder) > step_of(latest)
    ]


def newest_finite(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose manifest does not record a NaN.

    Raises:
        UnreadableError: The system refuses to read a file.
        NewerFormatError: A newer innerstep wrote a checkpoint.
    """
    return next((folder for folder in complete_checkpoints(checkpoints) if is_finite(folder)), None)


def is_finite(folder: Path) -> bool:
    """Return whether a checkpoint's manifest is whole and does not record a NaN.

    An older manifest, which has no record of that, counts as finite.

    Raises:
        UnreadableError: The system refuses to read the manifest.
        NewerFormatError: A newer innerstep wrote it.
    """
    try:
        return read_manifest(folder).get("finite") is not False
    except DamagedCheckpointError:
        return False


def verify(folder: Path, world: World = ALONE) -> dict[str, Any]:
    """Return the manifest of `folder` after checking every file against it. Files that it does not list are ignored.

    Args:
        folder: The checkpoint's.
        world: The processes that check it together, each some of the files.

    Raises:
        DamagedCheckpointError: A file is missing or not as it was written; the message has a line for each.
        UnreadableError: The system refuses to read a file.
        NewerFormatError: A newer innerstep wrote the checkpoint.
    """
    found = by_each(world, lambda: _verify_share(folder, world))
    problems = sorted({line for _, lines in found for line in lines})
    if problems:
        raise DamagedCheckpointError(bounded("\n".join(problems)))
    manifest: dict[str, Any] = found[0][0]
    return manifest


def _verify_share(folder: Path, place: Place) -> tuple[dict[str, Any], list[str]]:
    """Return the manifest, and a line for each damage that one of several processes finds."""
    try:
        manifest = read_manifest(folder)
        return manifest, damages(folder, manifest, place=place)
    except DamagedCheckpointError as error:
        return {}, [str(error)]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder`.

    Raises:
        DamagedCheckpointError: It is not as it was written.
        UnreadableError: The system refuses to read it.
        NewerFormatError: A newer innerstep wrote it.
    """
    path = folder / MANIFEST
    manifest = read_json(path)
    version, digest = manifest.get("format_version"), manifest.pop("checksum", None)
    is_newer = type(version) is int and version > FORMAT_VERSION
    if is_newer and digest != checksum_of({**manifest, "format_version": FORMAT_VERSION}):  # else the number is damaged
        raise NewerFormatError(
            f"{folder}: was written by a newer innerstep (format version {version}); this one reads up to"
            f" {FORMAT_VERSION}. Upgrade innerstep; nothing was changed."
        )
    if version != FORMAT_VERSION:
        raise DamagedCheckpointError(
            f"{path}: has format version {shown_value(version)}; this innerstep reads {FORMAT_VERSION}"
        )
    if digest != checksum_of(manifest):
        raise DamagedCheckpointError(f"{path}: is not as it was written (its checksum differs)")
    if not isinstance(manifest.get("files"), dict) or type(manifest.get("step")) is not int:
        raise DamagedCheckpointError(f"{path}: does not list the files and the step")
    return manifest


def damages(folder: Path, manifest: Mapping[str, Any], below: str = "", place: Place = ALONE) -> list[str]:
    """Return a line for each file that is not as the manifest describes it.

    Args:
        folder: The checkpoint's.
        manifest: The checkpoint's.
        below: Only files whose path begins with it are checked.
        place: The place of this process among those that check them together.

    Raises:
        UnreadableError: The system refuses to read a file, which may be whole.
    """
    described = sorted((name, text) for name, text in manifest["files"].items() if name.startswith(below))
    described = described[place.rank :: place.size]
    problems = ((name, _damage(folder, name, description)) for name, description in described)
    return [f"{folder}/{shown(name)}: {problem}" for name, problem in problems if problem]


def foreign_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the paths in `folder` that do not belong to the checkpoint.

    A file manager, an editor, a network disk or a person has put them there.

    Raises:
        UnreadableError: The folder cannot be listed.
    """
    known = {MANIFEST, *manifest["files"]}
    folders = {parent.as_posix() for name in manifest["files"] for parent in PurePosixPath(name).parents}
    found = []
    for inside in sorted(folders | {"."}):
        try:
            there = os.listdir(folder / inside)
        except OSError as error:
            if inside == ".":
                raise unreadable(folder, error) from error
            continue  # its files can be read all the same
        found += [(PurePosixPath(inside) / name).as_posix() for name in there]
    return sorted(name for name in found if name not in known and name not in folders)


def _damage(folder: Path, name: str, description: Any) -> str | None:
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts:
        return "is not the name of a file in a checkpoint"
    path = folder / name
    there = stat_of(path)
    if there is None or stat.S_ISDIR(there.st_mode):
        return "is missing" + ("" if there is None else ": a folder is in its place")
    if not stat.S_ISREG(there.st_mode):
        return "is missing: its place is taken by something that is not a file"
    try:
        size, digest = description["size_bytes"], description["xxh3_128"]
        if there.st_size != size:
            return f"has {there.st_size:,} bytes, and was written with {size:,}"
    except (KeyError, TypeError, ValueError) as error:
        return f"cannot be checked: {type(error).__name__}: {error}"
    try:
        with reading(path):
            return None if checksum(path) == digest else "is not as it was written (its checksum differs)"
    except DamagedCheckpointError:
        return "is missing"  # since a moment ago


def _folders(checkpoints: Path) -> list[Path]:
    for _ in range(_TRIES):
        try:
            names = os.listdir(checkpoints)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(checkpoints, error) from error
        folders = [checkpoints / name for name in names if STEP.fullmatch(name) and is_folder(checkpoints / name)]
        if folders or not os.path.lexists(checkpoints / LATEST):
            break  # else a run that keeps one checkpoint may have written the next meanwhile
    return folders
