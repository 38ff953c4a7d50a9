"""Files: read only where they are files; created by us alone, and written whole or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .plain_json import encoded
from .strides import packed

ASIDE = ".innerstep-"
"""How the names of folders begin in which files are written before they get their place."""

MOST_JSON = 1 << 30
"""Bytes of a JSON file at most: more would be a sparse or a foreign file, and would fill the memory."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither flag
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_FLUSH_OF_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that cannot flush a folder (CIFS, some FUSE mounts): there is nothing to wait for."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """What is at a path is a pipe, a socket or a device, which could be waited for without end."""


def check_is_file(path: Path) -> None:
    """Raise an OSError if `path` is not a file: NotAFileError, IsADirectoryError, or what the system says."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise NotAFileError(errno.EINVAL, f"it is {kind}, and not a file", str(path))


def content(path: Path, most: int) -> bytes:
    """Return what is in the file `path`, of at most `most` bytes. Raises OSError, also for a larger one."""
    check_is_file(path)
    check_size(path, most)
    return path.read_bytes()


def check_size(path: Path, most: int) -> None:
    """Raise an OSError if the file `path` has more than `most` bytes."""
    if (size := path.stat().st_size) > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and must have at most {most:,}", str(path))


@contextmanager
def aside_of(folder: Path) -> Iterator[Path]:
    """Yield a new folder in `folder`, which nobody else may enter: no link can be put there. It is removed again."""
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` once the body is through, and else is not there.

    A link at `path` is replaced, and what it leads to stays as it is. Raises OSError.
    """
    with aside_of(path.parent) as folder:
        aside = folder / path.name
        yield aside
        flush(aside)
        aside.replace(path)
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
    """Return a descriptor of the file `path` to append to, made if it is not there.

    Raises OSError, also for a link and for what is not a file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # the system's word for a pipe that nobody reads, and for a socket
            check_is_file(path)
        raise
    try:
        check_is_file(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` to the new file `path`. Raises OSError, TypeError for what is not plain."""
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


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk; of a folder, if the file system can do so. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAIT)
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
