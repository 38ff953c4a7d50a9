"""Differences of Windows and macOS, as far as they can be imitated here."""

import errno
import fcntl
import os

from optimizer.state import atomic_files, replacing, write_new
from trainer import run_lock


def test_a_file_is_flushed_where_that_needs_the_right_to_write(tmp_path, monkeypatch):
    """On Windows, fsync fails with EBADF for a descriptor that is open to read."""
    flush = os.fsync

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flush(descriptor)

    monkeypatch.setattr(atomic_files, "_TO_FLUSH", os.O_RDWR)
    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "file") as aside:
        write_new(aside, "a\nb\n")
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"


def test_a_run_without_locks_in_the_system_is_trained_and_says_so(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(run_lock, "fcntl", None)
    with run_lock.locked(tmp_path, lines.append) as lock:
        lock.check()
    assert "no lock is held" in lines[0]
    assert "fcntl" in lines[0]
