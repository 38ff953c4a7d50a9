"""One process, and one thread of it, at a time for a run."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .checkpoint.save_errors import newest_checkpoint, writing
from .errors import ConfigError, SaveError
from .run_layout import CHECKPOINTS, LOCK

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows, where a run goes without its lock
    fcntl = None

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system answers that has no locks: NFS without its daemon, Lustre without an option, some FUSE mounts."""
_MINE = 20  # a process's number, and nothing else, is in a lock's file

_held: dict[tuple[int, int], "RunLock"] = {}
"""The runs that this process trains, by their directories' device and inode."""
_changing = threading.Lock()


class RunLock:
    """The lock of a run, held from its construction on until `release`.

    It is of the open file and not of the process, so that it does not end where the process closes another descriptor
    of the file, as it does by copying the directory. Where a file system has no locks, only other threads are kept out.
    """

    def __init__(self, run_dir: Path, log: Callable[[str], None]) -> None:
        self._run_dir, self._path = run_dir, run_dir / LOCK
        self._descriptor: int | None = None
        self._process = os.getpid()
        try:
            with writing(run_dir):
                self._descriptor = self._taken()
        except _NoLocksError as error:
            log(
                f"{run_dir}: no lock is held, as the file system has none ({error})."
                " Take care that no other process trains this run."
            )

    def check(self) -> None:
        """Take the lock again if its file was removed or replaced.

        Raises SaveError if another process has it by now, OSError if the directory cannot be written.
        """
        if self._descriptor is None or os.getpid() != self._process:
            return
        held, there = os.fstat(self._descriptor), None
        with suppress(FileNotFoundError):
            there = self._path.lstat()
        if there is not None and (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
            return
        try:
            new = self._taken()
        except (ConfigError, _NoLocksError) as error:
            there_is = newest_checkpoint(self._run_dir / CHECKPOINTS)
            raise SaveError(
                f"{self._path} was removed while this run was training, and cannot be taken again: {error} This run"
                f" stops, so that two do not write into one directory. {there_is}"
            ) from error
        os.close(self._descriptor)
        self._descriptor = new

    def release(self) -> None:
        """Let the lock go; a child that was forked meanwhile does not."""
        if self._descriptor is not None and os.getpid() == self._process:
            os.close(self._descriptor)
        self._descriptor = None

    def forget(self) -> None:
        """Close the descriptor in a child that was forked, which else would hold the lock for as long as it lives."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _taken(self) -> int:
        """Return a descriptor that holds the lock. Raises ConfigError if another has it, _NoLocksError, OSError."""
        while True:
            descriptor = self._opened()
            try:
                self._lock(descriptor)
                there = self._path.lstat() if os.path.lexists(self._path) else None
                if there is not None and there.st_ino == os.fstat(descriptor).st_ino:  # not removed in between
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self._path, flags, 0o666)  # not inherited by programs that are started
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self._not_ours() from error
            raise
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_size <= _MINE
        if not is_ours or (not os.read(descriptor, _MINE).strip().isdigit() and found.st_size):
            os.close(descriptor)
            raise self._not_ours()
        return descriptor

    def _not_ours(self) -> ConfigError:
        return ConfigError(
            f"{self._path}: is not a lock that innerstep made. Remove it, or choose another --train.run_dir."
        )

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            raise _NoLocksError("this system has no fcntl")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                other = os.pread(descriptor, _MINE, 0).decode(errors="replace").strip()
                who = f"process {other}" if other else "another process"
                raise ConfigError(
                    f"{self._run_dir}: {who} is training this run. Stop it first, or wait for it."
                ) from None
            if error.errno in _NO_LOCKS:
                raise _NoLocksError(error.strerror) from error
            raise


class _NoLocksError(Exception):
    """The file system, or the system, has no locks."""


@contextmanager
def locked(run_dir: Path, log: Callable[[str], None] = print) -> Iterator[RunLock]:
    """Run the body while no other process or thread does so for this run; a process that dies leaves no lock behind.

    log: prints a line, where the file system has no locks. Raises ConfigError if another one is at it, SaveError if the
    directory cannot be written.
    """
    with writing(run_dir):
        found = run_dir.stat()
    key = (found.st_dev, found.st_ino)
    with _changing:
        if key in _held:
            raise ConfigError(f"{run_dir}: this process is training this run, in another thread. Wait for it to end.")
        lock = _held[key] = RunLock(run_dir, log)
    try:
        yield lock
    finally:
        lock.release()
        with _changing:
            _held.pop(key, None)


def _in_child() -> None:
    """In a process that was forked: it trains none of these runs."""
    global _changing
    _changing = threading.Lock()  # another thread may have held it when the process was forked
    for lock in _held.values():
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
