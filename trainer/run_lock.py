"""The lock of a run: one process, and one thread of it, trains a run at a time."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from .checkpoint.save_errors import newest_checkpoint, writing
from .errors import ConfigError, SaveError
from .run_layout import CHECKPOINTS, LOCK

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows, where a run has no lock
    fcntl = None

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system without locks: NFS without its daemon, Lustre without an option, some FUSE mounts."""
_MAX_BYTES = 20
"""Bytes in the file of a lock at most: it holds the number of a process."""

_RETRY_SECONDS = 0.2

_held_locks: dict[tuple[int, int], "RunLock"] = {}
"""The runs that this process trains, by their directories' device and inode."""
_guard = threading.Lock()
"""Guards `_held_locks`."""


class RunLock:
    """The lock of a run, held from its construction until `release`.

    It belongs to the open file and not to the process: closing another descriptor of the file, as copying the directory
    does, does not release it. Where a file system has no locks, only other threads are kept out.

    Args:
        run_dir: The run's directory.
        log: Prints a line, if the file system has no locks.

    Raises:
        ConfigError: Another process holds it.
        SaveError: The directory cannot be written.
    """

    def __init__(self, run_dir: Path, log: Callable[[str], None]) -> None:
        self._run_dir, self._path = run_dir, run_dir / LOCK
        self._descriptor: int | None = None
        self._process = os.getpid()
        try:
            with writing(run_dir):
                self._descriptor = self._acquire()
        except _NoLocksError as error:
            log(
                f"{run_dir}: no lock is held, as the file system has none ({error})."
                " Take care that no other process trains this run."
            )

    def check(self) -> None:
        """Take the lock again if its file was removed or replaced.

        Raises:
            SaveError: Another process holds it by now.
            OSError: The directory cannot be written.
        """
        if self._descriptor is None or os.getpid() != self._process:
            return
        held, current = os.fstat(self._descriptor), None
        with suppress(FileNotFoundError):
            current = self._path.lstat()
        if current is not None and (current.st_dev, current.st_ino) == (held.st_dev, held.st_ino):
            return
        try:
            new = self._acquire()
        except (ConfigError, _NoLocksError) as error:
            newest = newest_checkpoint(self._run_dir / CHECKPOINTS)
            raise SaveError(
                f"{self._path} was removed while this run was training, and cannot be taken again: {error} This run"
                f" stops, so that two do not write into one directory. {newest}"
            ) from error
        os.close(self._descriptor)
        self._descriptor = new

    def release(self) -> None:
        """Release the lock. In a child that was forked meanwhile nothing happens."""
        if self._descriptor is not None and os.getpid() == self._process:
            os.close(self._descriptor)
        self._descriptor = None

    def forget(self) -> None:
        """Close the descriptor in a child that was forked, which would otherwise hold the lock as long as it lives."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _acquire(self) -> int:
        """Return a descriptor that holds the lock. Raises ConfigError if another has it, _NoLocksError, OSError."""
        while True:
            descriptor = self._open()
            try:
                self._lock(descriptor)
                current = self._path.lstat() if os.path.lexists(self._path) else None
                if current is not None and current.st_ino == os.fstat(descriptor).st_ino:  # not removed in between
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self._path, flags, 0o666)  # not inherited by programs that are started
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self._foreign_file_error() from error
            raise
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_size <= _MAX_BYTES
        if not is_ours or (not os.read(descriptor, _MAX_BYTES).strip().isdigit() and found.st_size):
            os.close(descriptor)
            raise self._foreign_file_error()
        return descriptor

    def _foreign_file_error(self) -> ConfigError:
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
                other = os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace").strip()
                who = f"process {other}" if other else "another process"
                raise _HeldError(
                    f"{self._run_dir}: {who} is training this run. Stop it (or its torchrun) first, or wait for it."
                ) from None
            if error.errno in _NO_LOCKS:
                raise _NoLocksError(error.strerror) from error
            raise


class _HeldError(ConfigError):
    """Another process holds the lock."""


class _NoLocksError(Exception):
    """The file system, or the system, has no locks."""


@contextmanager
def locked(run_dir: Path, log: Callable[[str], None] = print, patience_seconds: float = 0.0) -> Iterator[RunLock]:
    """Run the body with the lock of a run. A process that dies leaves no lock behind.

    Args:
        run_dir: The run's directory.
        log: Prints a line, if the file system has no locks.
        patience_seconds: How long to wait for another process that holds it.

    Raises:
        ConfigError: Another process or thread holds it.
        SaveError: The directory cannot be written.
    """
    with writing(run_dir):
        found = run_dir.stat()
    key = (found.st_dev, found.st_ino)
    with _guard:
        if key in _held_locks:
            raise ConfigError(f"{run_dir}: this process is training this run, in another thread. Wait for it to end.")
        lock = _held_locks[key] = _acquired(run_dir, log, patience_seconds)
    try:
        yield lock
    finally:
        lock.release()
        with _guard:
            _held_locks.pop(key, None)


def _acquired(run_dir: Path, log: Callable[[str], None], patience_seconds: float) -> RunLock:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return RunLock(run_dir, log)
        except _HeldError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _forget_all() -> None:
    """Forget the runs of the parent in a process that was forked."""
    global _guard
    _guard = threading.Lock()  # another thread may have held it when the process was forked
    for lock in _held_locks.values():
        lock.forget()
    _held_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
