"""Compiled libraries in a private folder, for the next processes.

A file's name has a hash of all that the library was made from, and one of its bytes. A folder that others could write
to is not used, and no error leaves this module: the library is then made again.
"""

import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

VARIABLE = "INNERSTEP_CACHE"
"""The environment variable with the folder's path, or `off`."""

FILES = 64
"""The number of libraries that are kept: those used last."""

MAX_BYTES = 16 << 20
"""The size of the largest file that is read."""

_NEW = ".new-"
_NAME = re.compile(r"[a-z_]+-[0-9a-f]{64}-[0-9a-f]{64}\.so")
_SHARED = stat.S_IWGRP | stat.S_IWOTH
_DAY, _HOUR = 86_400, 3_600


def kept(name: str, source: str) -> Iterator[Path]:
    """Yield the paths of kept libraries whose bytes are those that were written.

    Args:
        name: of the library: small letters and underscores.
        source: the hash of all that it was made from.
    """
    folder = _folder()
    if folder is None:
        return
    with suppress(OSError):
        for file in sorted(os.listdir(folder)):
            path = folder / file
            if file.startswith(f"{name}-{source}-") and _NAME.fullmatch(file) and _is_whole(path):
                yield path


def keep(name: str, source: str, content: bytes) -> Path | None:
    """Write a library into the folder, whole or not at all; return its path, or None if that is not possible.

    Args:
        name: as for `kept`.
        source: as for `kept`.
        content: the library's bytes.
    """
    folder = _folder()
    if folder is None:
        return None
    try:
        number, aside = tempfile.mkstemp(prefix=_NEW, dir=folder)
        try:
            with open(number, "wb") as file:
                file.write(content)
            path = folder / f"{name}-{source}-{sha256(content).hexdigest()}.so"
            os.replace(aside, path)
        except BaseException:
            discard(Path(aside))
            raise
    except OSError:
        return None
    _tidy(folder)
    return path


def discard(path: Path) -> None:
    """Remove a file if that is possible."""
    with suppress(OSError):
        path.unlink()


def _folder() -> Path | None:
    """Return the folder, which is made if it is missing; None without one, or if it is not private."""
    path = _place()
    if path is None or not hasattr(os, "getuid"):
        return None
    try:
        real = Path(os.path.realpath(path))
        if not all(_is_trusted(folder) for folder in real.parents if folder.exists()):
            return None
        real.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = real.stat()
        if found.st_uid != os.getuid() or found.st_mode & _SHARED or not all(map(_is_trusted, real.parents)):
            return None
    except (OSError, ValueError):
        return None
    return real


def _place() -> Path | None:
    """Return where the folder should be, by the environment and the system's convention."""
    asked = os.environ.get(VARIABLE, "").strip()
    if asked:
        return None if asked.lower() == "off" else Path(os.path.expanduser(asked)).absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # one that is not must be ignored, by the convention
        cache = Path(os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache"))
    return cache / "innerstep" if cache.is_absolute() else None


def _is_trusted(folder: Path) -> bool:
    """Return whether nobody but this user and root can change what is in `folder`, or at least not what is theirs."""
    found = folder.stat()
    is_sticky = found.st_mode & stat.S_ISVTX  # as /tmp is
    return found.st_uid in (0, os.getuid()) and (not found.st_mode & _SHARED or bool(is_sticky))


def _is_whole(path: Path) -> bool:
    """Return whether a kept file is ours and has the hash in its name; one that is in use is marked as such."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as file:
            found = os.fstat(number)
            is_ours = found.st_uid == os.getuid() and not found.st_mode & _SHARED
            if not (is_ours and stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES):
                return False
            content = file.read()
    except OSError:
        return False
    if sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
        discard(path)
        return False
    if found.st_mtime < time.time() - _DAY:
        with suppress(OSError):
            os.utime(path)
    return True


def _tidy(folder: Path) -> None:
    """Remove what processes that were killed have left, and all but the libraries used last."""
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.stat(follow_symlinks=False).st_mtime, entry.name) for entry in entries]
        for modified, name in found:
            if name.startswith(_NEW) and modified < time.time() - _HOUR:
                discard(folder / name)
        libraries = sorted(((modified, name) for modified, name in found if _NAME.fullmatch(name)), reverse=True)
        for _, name in libraries[FILES:]:
            discard(folder / name)
