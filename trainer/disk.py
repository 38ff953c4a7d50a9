"""Files: created by us alone, written whole or not at all, read without running anything that is in them."""

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optimizer.strides import packed, unpacked
from trainer.errors import UnreadableError
from trainer.plain_json import decoded, encoded

ASIDE = ".innerstep-"
"""How the names of folders begin in which files are written before they get their place."""

_CHUNK = 1 << 20
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
_NO_FLUSH_OF_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that cannot flush a folder (CIFS, some FUSE mounts): there is nothing to wait for."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written. The message names the file and what is wrong."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new, never half of it."""
    with replacing(path) as aside:
        write_new(aside, text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` once the body is through, and else is not there.

    It lies in a new folder that nobody else may enter: no link can be put in its place.
    """
    folder = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path.parent))
    try:
        aside = folder / path.name
        yield aside
        flush(aside)
        aside.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    flush(path.parent)


def write_new(path: Path, text: str) -> None:
    """Write `text` to the file `path`, which must not be there. Raises OSError."""
    with open_new(path) as descriptor, open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)


@contextmanager
def open_new(path: Path) -> Iterator[int]:
    """Yield a descriptor of the new file `path`, of the mode that the umask leaves.

    Raises OSError if anything is there already, a link included.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_to_append(path: Path) -> int:
    """Return a descriptor of the file `path` to append to, made if it is not there. Raises OSError, also for a link."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o666)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` to the new file `path`. Raises OSError."""
    write_new(path, encoded(values, indent=1))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` and their strides to the new safetensors file `path`.

    They must not share memory. Raises OSError, as `write_json`.
    """
    contiguous, metadata = packed(tensors, metadata)
    with open_new(path) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        save_file(contiguous, path, metadata)
    except SafetensorError as error:  # the library's word for an OSError, whose number it tells in its text only
        raise OSError(f"{path}: {error}") from error
    if stat.S_IMODE(path.stat().st_mode) != mode:  # it writes through a file of its own, for the owner alone
        path.chmod(mode)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DamagedCheckpointError if there is none, UnreadableError."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: holds no JSON object")
    return value


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file. Raises DamagedCheckpointError if there is none, UnreadableError."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise DamagedCheckpointError(f"{path}: holds no JSON list")
    return value


def _read_json(path: Path) -> Any:
    with reading(path):
        _check_regular(path)
        content = path.read_bytes()
    try:
        value = decoded(content.decode())
        json.dumps(value, ensure_ascii=False).encode()  # what is to be shown and compared later
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, in their strides. Raises DamagedCheckpointError,
    UnreadableError."""
    with opened_tensors(path) as file:
        return unpacked({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118 not a dict


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Yield a safetensors file of which only the header is read until a tensor is asked for.

    Raises DamagedCheckpointError, also for what the body cannot read of it, and UnreadableError.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with reading(path):
        _check_regular(path)
        path.open("rb").close()  # the library gives the system's reason in its text only
    try:
        with reading(path):
            yield
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, DamagedCheckpointError | UnreadableError):
            raise
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let the body read `path`.

    Raises DamagedCheckpointError if it is not there or is no file, UnreadableError where the system refuses to read
    what may well be whole: no permission, a failing disk, a network disk that is away.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENAMETOOLONG):
            raise DamagedCheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """Return the error that `path` cannot be read, with the system's reason."""
    return UnreadableError(f"{path}: cannot be read: {error.strerror or error}. Nothing was changed; try again.")


def stat_of(path: Path, absent: type[OSError] = FileNotFoundError) -> os.stat_result | None:
    """Return what is at `path`, links followed; None if it is not there.

    absent: another error that means so. Raises UnreadableError where it cannot be told.
    """
    try:
        return path.stat()
    except (FileNotFoundError, absent, ValueError):  # ValueError: a NUL in the name
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise unreadable(path, error) from error


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would have to be waited for
        raise DamagedCheckpointError(f"{path}: cannot be read: it is not a file")


def checksum(path: Path) -> str:
    """Return the XXH3 checksum of a file, 128 bits in hexadecimal. It tells damage, and not ill will."""
    digest = xxhash.xxh3_128()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()


def checksum_of(values: Mapping[str, Any]) -> str:
    """Return the XXH3 checksum of plain values."""
    return xxhash.xxh3_128(json.dumps(values, sort_keys=True).encode()).hexdigest()


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk; of a folder, if the file system can do so. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens none, and one may be writable but not readable
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode) or error.errno not in _NO_FLUSH_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link (and not what it leads to) or a folder with all that is in it. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_all(paths: list[Path]) -> None:
    """Remove each of `paths`, as `remove` does. Raises the first OSError after all were tried."""
    failures: list[OSError] = []
    for path in paths:
        try:
            with suppress(FileNotFoundError):
                remove(path)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]
