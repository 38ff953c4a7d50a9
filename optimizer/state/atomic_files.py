"""Files that are created whole or not at all, and reading that refuses pipes, devices and oversized files."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .plain_json import encode_json

ASIDE = ".innerstep-"
"""The prefix of the folders in which files are written before they get their place."""

MAX_JSON_BYTES = 1 << 30
"""The largest JSON file that is read: a larger one is sparse or foreign, and would fill the memory."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither flag
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_TO_FLUSH = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # Windows flushes a file that is open to write
_NO_FLUSH_OF_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems that cannot flush a folder (CIFS, some FUSE mounts): there is nothing to wait for."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """The path leads to a pipe, a socket or a device, which could be waited for without end."""


def check_is_file(path: Path) -> None:
    """Check that `path` is a file.

    Raises:
        NotAFileError: It is a pipe, a socket or a device.
        IsADirectoryError: It is a folder.
        OSError: It is missing, or cannot be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise NotAFileError(errno.EINVAL, f"it is {kind}, and not a file", str(path))


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It is not a file, has more than `max_bytes` bytes, or cannot be read.
    """
    check_is_file(path)
    check_size(path, max_bytes)
    return path.read_bytes()


def check_size(path: Path, max_bytes: int) -> None:
    """Raise an OSError if the file `path` has more than `max_bytes` bytes."""
    if (size := path.stat().st_size) > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and must have at most {max_bytes:,}", str(path))


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which no other user may enter: no link can be put there. It is removed again."""
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file for the body to write, which replaces `path` if the body ends without an error.

    A link at `path` is replaced, and its target stays as it is.

    Raises:
        OSError: The file cannot be written or moved; `path` is as before.
    """
    with private_folder(path.parent) as folder:
        aside = folder / path.name
        yield aside
        flush(aside)
        aside.replace(path)
    flush(path.parent)


def write_new(path: Path, text: str) -> None:
    """Write `text` to the new file `path`.

    Raises:
        FileExistsError: There is something at `path` already, a link included.
        OSError: The file cannot be written.
    """
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def open_to_append(path: Path) -> int:
    """Return a descriptor of the file `path` to append to, created if it is missing.

    Raises:
        OSError: It is a link, not a file, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            check_is_file(path)
        raise
    try:
        check_is_file(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write `values` to the new file `path`.

    Raises:
        OSError: The file exists, or cannot be written.
        TypeError: A value is not plain.
    """
    write_new(path, encode_json(values, indent=1))


def flush(path: Path) -> None:
    """Wait until a file is on the disk, or a folder if the file system supports that.

    Raises:
        OSError: The file or folder cannot be flushed.
    """
    try:
        descriptor = os.open(path, _TO_FLUSH | _NO_WAIT)
    except (PermissionError, IsADirectoryError):
        if path.is_dir():  # Windows cannot open one, and one may be writable but not readable
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode) or error.errno not in _NO_FLUSH_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)
