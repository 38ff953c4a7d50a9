"""A checkpoint's folder on disk: complete or absent, and checked before it is read."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished-"


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written. The message names the file and what is wrong."""


@contextmanager
def new_checkpoint(checkpoints: Path, step: int) -> Iterator[Path]:
    """Give a folder to write step `step`'s files into; on leaving, make it the newest checkpoint.

    The files are flushed to disk, listed with their checksums in a manifest, and the folder gets its
    name last: whatever stops the process, a checkpoint is there whole or not at all.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(checkpoints)
    final = checkpoints / f"step_{step:08d}"
    aside = checkpoints / f"{_UNFINISHED}{final.name}"
    aside.mkdir()
    yield aside
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    listed = {path.relative_to(aside).as_posix(): _described(path) for path in files}
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": listed}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in [*files, aside / MANIFEST, *(path for path in aside.rglob("*") if path.is_dir()), aside]:
        _flush(path)
    if final.exists():  # the same step saved again, after a resume from an earlier one
        final.rename(checkpoints / f"{_UNFINISHED}replaced")
    aside.rename(final)
    write_atomically(checkpoints / "latest", final.name + "\n")
    _remove_unfinished(checkpoints)


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the folders of finished checkpoints, the newest (the one that `latest` names) first."""
    folders = sorted((path for path in checkpoints.glob("step_*") if path.is_dir()), reverse=True)
    latest = checkpoints / "latest"
    named = checkpoints / latest.read_text(encoding="utf-8").strip() if latest.is_file() else None
    return sorted(folders, key=lambda folder: folder != named)


def verify(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after checking every file against it.

    Raises DamagedCheckpointError if a file is missing, unknown, or not as it was written.
    """
    manifest = read_json(folder / MANIFEST)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise DamagedCheckpointError(f"{folder}: format version {version!r}; this innerstep reads {FORMAT_VERSION}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not isinstance(manifest.get("step"), int):
        raise DamagedCheckpointError(f"{folder / MANIFEST}: does not list the files and the step")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(present ^ listed.keys()):
        problem = "is missing" if name in listed else "does not belong to the checkpoint"
        raise DamagedCheckpointError(f"{folder / name}: {problem}")
    for name, description in listed.items():
        if _described(folder / name) != description:
            raise DamagedCheckpointError(f"{folder / name}: is not as it was written (its size or checksum differs)")
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DamagedCheckpointError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: holds no JSON object")
    return value


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new, never half of it."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    _flush(aside)
    aside.replace(path)
    _flush(path.parent)


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    return {"size_bytes": path.stat().st_size, "blake2b": digest}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(checkpoints: Path) -> None:
    for leftover in checkpoints.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)
