"""Writes and removes checkpoints, each complete or absent. Finishes or removes the files of killed processes."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash
from torch import Tensor

from optimizer.state import ASIDE, flush, write_json, write_new, write_tensors
from optimizer.types import JsonObject

from ..distributed.outcomes import by_each, by_main
from ..distributed.world import World
from ..run_layout import LATEST, MANIFEST
from ..runtime.files import checksum, checksum_of, remove, remove_all, remove_whole
from .directory import ALONE, FORMAT_VERSION, Files
from .health import nonfinite_names
from .names import STEP, UNFINISHED, folder_name, is_folder, pending_name
from .shares import Share

DAMAGED = "damaged-"
"""Prefix of damaged checkpoints that a resume has set aside."""

_REMOVED = ".removed-"
_REPLACED = ".replaced-"
_OLD = ".replaced"
_WRITERS = 4

LEFTOVERS = (UNFINISHED, _REMOVED, _REPLACED, ASIDE, ".latest.new", ".best.new")
"""Prefixes of files and folders that a killed process leaves among the checkpoints."""


def write_checkpoint(
    checkpoints: Path, step: int, share: Share, world: World = ALONE, check: Callable[[], None] = lambda: None
) -> Path:
    """Write a checkpoint of `step` updates and make it the newest; return its folder.

    All of it is made in a new folder beside the others: the files, flushed to disk and listed with their checksums in
    a manifest, and the new LATEST. Then both are moved to their places. Whatever stops a process, a checkpoint is
    there whole or not at all, and the rest of that folder shows `recover` how far the processes had come.

    All processes call it together. Each writes its files; the main one does the rest. If one fails, all do.

    Args:
        checkpoints: The folder of the run's checkpoints.
        step: Updates done.
        share: The files that this process writes.
        world: The processes of the run, with the group in which they exchange what they have written.
        check: Called by the main process before it writes; it may raise.

    Raises:
        OSError: A file cannot be written.
    """
    final = checkpoints / folder_name(step)

    def begin() -> str:
        check()
        return _new_folder(checkpoints).name

    aside = checkpoints / by_main(world, begin)
    try:
        written = by_each(world, lambda: _write_parts(aside / final.name, share.parts))
        by_main(world, lambda: _commit(aside, final, _manifest(step, share.names, written)))
    finally:
        if world.is_main:
            with suppress(OSError):  # then `clear_leftovers` tries again
                _put_back(checkpoints, aside)
                _discard(aside)
    return final


def _new_folder(checkpoints: Path) -> Path:
    """Make the folder that a checkpoint is written in, and return it."""
    if not checkpoints.exists():
        checkpoints.mkdir()  # but not its parents: a run whose directory is gone does not start again
        flush(checkpoints.parent)
    return Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=checkpoints))


def _write_parts(folder: Path, parts: Iterable[Files]) -> JsonObject:
    """Write files, a part at a time; return their entries in the manifest, and whether their tensors are finite.

    After a failure the other parts are still gone through: other processes may take part in making them.
    """
    listed: JsonObject = {}
    finite, failure = True, None
    for part in parts:
        if failure is None:
            try:
                folder.mkdir(exist_ok=True)  # its parent is there if all processes share the file system
                entries, is_finite = _write_files(folder, part)
                listed |= entries
                finite = finite and is_finite
            except Exception as error:
                failure = error
        del part  # before the next one is made
    if failure is not None:
        raise failure
    return {"files": listed, "finite": finite}


def _write_files(folder: Path, files: Files) -> tuple[JsonObject, bool]:
    """Write files, with the folders that they are in.

    Returns:
        Their entries in the manifest, and whether their tensors are finite.
    """
    inside = sorted({(folder / name).parent for name in files} - {folder})
    for each in inside:
        each.mkdir()
    largest_first = sorted(files, key=lambda name: -_size_bytes(files[name]))
    with _writers() as pool:  # one file is flushed while the next is written
        described = pool.map(lambda name: _write_file(folder / name, files[name]), largest_first)
        is_finite = not nonfinite_names(files)
        listed = dict(zip(largest_first, described, strict=True))
    for each in inside:
        flush(each)
    return listed, is_finite


@contextmanager
def _writers() -> Iterator[ThreadPoolExecutor]:
    """Yield threads that write files, and wait for them, unless the process must stop at once: a disk may hang."""
    pool, waits = ThreadPoolExecutor(_WRITERS), True
    try:
        yield pool
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(waits, cancel_futures=True)


def _size_bytes(content: Mapping[str, object]) -> int:
    return sum(value.nbytes for value in content.values() if isinstance(value, Tensor))


def _manifest(step: int, names: Iterable[str], written: Iterable[JsonObject]) -> JsonObject:
    """Return the manifest of a checkpoint. written: the result of `_write_parts` in each process."""
    described = {name: entry for each in written for name, entry in each["files"].items()}
    finite = all(each["finite"] for each in written)
    listed = {name: described[name] for name in names}
    return {"format_version": FORMAT_VERSION, "step": step, "finite": finite, "files": listed}


def _commit(aside: Path, final: Path, manifest: JsonObject) -> None:
    """Write the manifest of the checkpoint in `aside` and LATEST, and move both to their places."""
    checkpoints, folder = final.parent, aside / final.name
    write_json(folder / MANIFEST, manifest | {"checksum": checksum_of(manifest)})
    write_new(aside / LATEST, final.name + "\n")
    for path in (folder / MANIFEST, folder, aside / LATEST, aside):
        flush(path)
    if os.path.lexists(final):  # the same step saved again, after a resume from an earlier one
        (aside / _OLD).mkdir()
        final.rename(aside / _OLD / final.name)
    folder.rename(final)
    flush(checkpoints)
    (aside / LATEST).replace(checkpoints / LATEST)
    flush(checkpoints)


def _write_file(path: Path, content: Mapping[str, Tensor] | JsonObject) -> JsonObject:
    """Write a file, wait until it is on the disk, and return its entry in the manifest."""
    if path.suffix == ".safetensors":
        digest = xxhash.xxh3_128()
        size_bytes = write_tensors(path, content, None, digest.update)
        return {"size_bytes": size_bytes, "xxh3_128": digest.hexdigest()}
    write_json(path, content)
    flush(path)
    return {"size_bytes": path.stat().st_size, "xxh3_128": checksum(path)}


def remove_checkpoints(folders: Iterable[Path]) -> None:
    """Remove checkpoints; whatever stops the process, none is left in part.

    Raises:
        OSError: One cannot be removed. It is the first such error, raised after all were tried.
    """
    failures = []
    for folder in folders:
        try:
            remove_whole([folder], _REMOVED)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it is neither resumed from nor replaced; return its new folder.

    Raises:
        OSError: It cannot be renamed.
    """
    for number in range(1, 10_000):
        new = folder.with_name(f"{DAMAGED}{folder.name}" + (f"-{number}" if number > 1 else ""))
        if not os.path.lexists(new):
            folder.rename(new)
            flush(folder.parent)
            return new
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))


def recover(checkpoints: Path) -> None:
    """Finish the work of a process that was killed, so that the newest checkpoint is found.

    A checkpoint that has its place and is not named by LATEST yet is named. One that was about to be replaced is put
    back.

    Raises:
        OSError: A file cannot be written.
    """
    for aside in _leftovers(checkpoints, UNFINISHED):
        if aside.is_symlink() or not aside.is_dir():
            continue
        name = pending_name(aside)
        if name is not None and is_folder(checkpoints / name):
            (aside / LATEST).replace(checkpoints / LATEST)
            flush(checkpoints)
        _put_back(checkpoints, aside)
    for old in _leftovers(checkpoints, _REPLACED):  # the name that earlier versions used
        final = old.with_name(old.name.removeprefix(_REPLACED))
        if STEP.fullmatch(final.name) and not os.path.lexists(final):
            old.rename(final)


def clear_leftovers(checkpoints: Path) -> None:
    """Do as `recover` does, and remove the remaining files of killed processes.

    Raises:
        OSError: One cannot be removed. It is the first such error, raised after all were tried.
    """
    recover(checkpoints)
    for aside in _leftovers(checkpoints, UNFINISHED):
        if not aside.is_symlink():
            with suppress(OSError):  # `remove_all` meets it too
                _discard(aside)
    remove_all(_leftovers(checkpoints, *LEFTOVERS))


def _put_back(checkpoints: Path, aside: Path) -> None:
    """Put back the checkpoint in `aside` that was about to be replaced, if nothing is in its place."""
    if (aside / _OLD).is_dir():
        for old in (aside / _OLD).iterdir():
            if not os.path.lexists(checkpoints / old.name):
                old.rename(checkpoints / old.name)


def _discard(aside: Path) -> None:
    """Remove the folder that a checkpoint is written in: first LATEST, by which `recover` decides."""
    (aside / LATEST).unlink(missing_ok=True)
    remove(aside)


def _leftovers(checkpoints: Path, *prefixes: str) -> list[Path]:
    try:
        return [checkpoints / name for name in os.listdir(checkpoints) if name.startswith(prefixes)]
    except FileNotFoundError:
        return []
