"""A checkpoint's folder on disk: complete or absent, and checked before it is read."""

import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.disk import (
    DamagedCheckpointError,
    checksum,
    checksum_of,
    flush,
    read_json,
    write_atomically,
    write_json,
    write_tensors,
)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LATEST = "latest"
BEST = "best"
_UNFINISHED = ".unfinished-"
_REPLACED = ".replaced-"
_WRITERS = 4

Files = Mapping[str, Mapping[str, Any]]
"""What a checkpoint's files hold, by path: tensors for .safetensors, plain values for .json."""


def write_checkpoint(checkpoints: Path, step: int, files: Files) -> Path:
    """Write a checkpoint of `step` updates and make it the newest; return its folder. Raises OSError.

    The files are flushed to disk, listed with their checksums in a manifest, and the folder gets its
    name last: whatever stops the process, a checkpoint is there whole or not at all.
    """
    if not checkpoints.exists():
        checkpoints.mkdir()  # but not its parents: a run whose directory is gone is not begun anew
        flush(checkpoints.parent)
    clear_leftovers(checkpoints)
    final = checkpoints / folder_name(step)
    aside = checkpoints / f"{_UNFINISHED}{final.name}"
    for folder in sorted({(aside / name).parent for name in files} | {aside}):
        folder.mkdir()
    with ThreadPoolExecutor(_WRITERS) as pool:  # one file is flushed while the next is written
        described = pool.map(lambda name: _write_file(aside / name, files[name]), files)
        listed = dict(zip(files, described, strict=True))
    manifest = {"format_version": FORMAT_VERSION, "step": step, "files": listed}
    write_json(aside / MANIFEST, manifest | {"checksum": checksum_of(manifest)})
    for path in [aside / MANIFEST, *(path for path in aside.rglob("*") if path.is_dir()), aside]:
        flush(path)
    if final.exists():  # the same step saved again, after a resume from an earlier one
        final.rename(checkpoints / f"{_REPLACED}{final.name}")
    aside.rename(final)
    flush(checkpoints)
    point(checkpoints, LATEST, final)
    clear_leftovers(checkpoints)
    return final


def point(checkpoints: Path, name: str, folder: Path) -> None:
    """Let the file `name`, LATEST or BEST, name the checkpoint in `folder`."""
    write_atomically(checkpoints / name, folder.name + "\n")


def pointed(checkpoints: Path, name: str) -> Path | None:
    """Return the folder that the file `name` names, if it does and the folder is there."""
    try:
        folder = checkpoints / (checkpoints / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return folder if folder in _folders(checkpoints) else None


def checkpoint_at(path: Path) -> Path | None:
    """Return the folder of the checkpoint that `path` is, or names, or that is the newest of the run `path`; None if
    it is none of these.

    Raises ValueError for a run that has no checkpoint, and for a LATEST or BEST that names none.
    """
    if path.name in (LATEST, BEST) and path.is_file():
        folder = pointed(path.parent, path.name)
        if folder is None:
            raise ValueError(f"{path}: names no checkpoint that is there. Give the run, or one of its checkpoints.")
        return folder
    if (path / "checkpoints").is_dir():
        folders = complete_checkpoints(path / "checkpoints")
        if not folders:
            raise ValueError(f"{path}: this run has no checkpoint yet")
        return folders[0]
    return path if (path / MANIFEST).is_file() or path in _folders(path.parent) else None


def existing_checkpoint(path: Path) -> Path:
    """Return what `checkpoint_at` does. Raises ValueError also where that is nothing."""
    folder = checkpoint_at(path)
    if folder is None:
        raise ValueError(
            f"{path}: there is no checkpoint here. Give a run, one of its checkpoints/step_… folders, or its"
            f" checkpoints/{LATEST} or checkpoints/{BEST}."
        )
    return folder


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the folders of finished checkpoints in the order in which a resume takes them: the one that LATEST
    names, those before it, the newest first, and then those after it, which a resume from an earlier one left behind.
    """
    folders = sorted(_folders(checkpoints), key=step_of, reverse=True)
    latest = pointed(checkpoints, LATEST)
    if latest is None:
        return folders
    return [folder for folder in folders if step_of(folder) <= step_of(latest)] + [
        folder for folder in folders if step_of(folder) > step_of(latest)
    ]


def remove_checkpoints(folders: Iterable[Path]) -> None:
    """Remove checkpoints; whatever stops the process, none is left in part."""
    for folder in folders:
        aside = folder.with_name(f"{_UNFINISHED}{folder.name}")
        folder.rename(aside)
        shutil.rmtree(aside)


def clear_leftovers(checkpoints: Path) -> None:
    """Remove what a process left half done, and put back a checkpoint that was about to be replaced."""
    for leftover in checkpoints.glob(f"{_REPLACED}*"):
        final = leftover.with_name(leftover.name.removeprefix(_REPLACED))
        shutil.rmtree(leftover) if final.exists() else leftover.rename(final)
    for leftover in checkpoints.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)


def verify(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after checking every file against it.

    Raises DamagedCheckpointError, with a line for each file that is missing, unknown, or not as it was written.
    """
    manifest = read_manifest(folder)
    problems = damages(folder, manifest)
    if problems:
        raise DamagedCheckpointError("\n".join(problems))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder`. Raises DamagedCheckpointError if it is not as it was written."""
    path = folder / MANIFEST
    manifest = read_json(path)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise DamagedCheckpointError(f"{path}: has format version {version!r}; this innerstep reads {FORMAT_VERSION}")
    if manifest.pop("checksum", None) != checksum_of(manifest):
        raise DamagedCheckpointError(f"{path}: is not as it was written (its checksum differs)")
    if not isinstance(manifest.get("files"), dict) or type(manifest.get("step")) is not int:
        raise DamagedCheckpointError(f"{path}: does not list the files and the step")
    return manifest


def damages(folder: Path, manifest: Mapping[str, Any], below: str = "") -> list[str]:
    """Return a line for each file, of those whose path begins with `below`, that is not as the manifest says."""
    listed = {name: description for name, description in manifest["files"].items() if name.startswith(below)}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    problems = []
    for name in sorted({name for name in present if name.startswith(below)} | listed.keys()):
        if name not in present:
            problems.append(f"{folder / name}: is missing")
        elif name not in listed:
            problems.append(f"{folder / name}: does not belong to the checkpoint")
        elif problem := _damage(folder / name, listed[name]):
            problems.append(f"{folder / name}: {problem}")
    return problems


def folder_name(step: int) -> str:
    """Return the name of the folder of a checkpoint of `step` updates."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the updates done at the checkpoint in `folder`, by its name."""
    return int(folder.name.removeprefix("step_"))


def _folders(checkpoints: Path) -> list[Path]:
    return [path for path in checkpoints.glob("step_*") if re.fullmatch(r"step_\d+", path.name) and path.is_dir()]


def _write_file(path: Path, content: Mapping[str, Tensor] | Mapping[str, Any]) -> dict[str, Any]:
    """Write a file, wait until it is on the disk, and return what the manifest says of it."""
    (write_tensors if path.suffix == ".safetensors" else write_json)(path, content)
    flush(path)
    return {"size_bytes": path.stat().st_size, "xxh3_128": checksum(path)}


def _damage(path: Path, description: Any) -> str | None:
    if not path.is_file():
        return "is no file"
    try:
        size, digest = path.stat().st_size, description["size_bytes"]
        if size != digest:
            return f"has {size:,} bytes, and was written with {digest:,}"
        return None if checksum(path) == description["xxh3_128"] else "is not as it was written (its checksum differs)"
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"cannot be checked: {error}"
