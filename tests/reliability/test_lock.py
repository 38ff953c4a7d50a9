"""One process and one thread at a time trains a run, whatever happens to the lock's file."""

import errno
import io
import os
import shutil
import signal
import sys
import threading

import faults
import pytest
from conftest import files_of
from rich.console import Console

from trainer import ConfigError, SaveError, resume, train
from trainer import run_lock as locks
from trainer.checkpoint.manager import CheckpointManager
from trainer.run_lock import locked

SHORT = {"total_steps": 3, "eval_every": 1, "keep_best": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("locked") / "run"
    train(faults.config(run, **SHORT), console=Console(file=io.StringIO()))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def other_process(run, then=lambda: None):
    """Fork a process that takes the lock, does `then`, writes what that returns, and waits; return its id and that."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with locked(run):
                os.write(write, f"{then()}\n".encode())
                signal.pause()
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 100).decode().strip()
    os.close(read)
    return pid, said


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def can_be_taken(run):
    """Return whether another process could train the run now."""
    pid = os.fork()
    if pid == 0:
        try:
            with locked(run):
                os._exit(0)
        except ConfigError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_it_holds_where_the_process_copies_its_directory(run, tmp_path):
    with locked(run):
        shutil.copytree(run, tmp_path / "backup")
        (run / ".lock").read_text()
        assert not can_be_taken(run)
    assert can_be_taken(run)


def test_another_thread_is_refused_and_the_run_is_not_changed(run):
    before, refused = files_of(run), []

    def take_up():
        for start in (lambda: resume(run), lambda: train(faults.config(run, **SHORT), overwrite=True)):
            try:
                start()
            except ConfigError as error:
                refused.append(str(error))

    with locked(run):
        thread = threading.Thread(target=take_up)
        thread.start()
        thread.join()
        linked = run.with_name("link")
        linked.symlink_to(run)
        with pytest.raises(ConfigError, match="in another thread"), locked(linked):
            pass
    assert [f"{run}: this process is training this run, in another thread" in text for text in refused] == [True] * 2
    after = files_of(run)
    assert {name: before[name] for name in before if name != ".lock"} == {
        name: after[name] for name in after if name != ".lock"
    }
    assert resume(run, console=Console(quiet=True)).step == 3


def test_a_child_neither_releases_it_nor_keeps_it_alive(run):
    """The first child ends, as a worker does; the second outlives its parent, as a worker may for a moment."""

    def children():
        if (first := os.fork()) == 0:
            sys.exit()  # through the lock's own end
        os.waitpid(first, 0)
        return os.fork() or signal.pause()

    parent, second = other_process(run, children)
    try:
        assert not can_be_taken(run)
        kill(parent)
        assert can_be_taken(run)
    finally:
        os.kill(int(second), signal.SIGKILL)


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_lock_that_was_removed_is_taken_again_if_nobody_has_it(run, how):
    with locked(run) as lock:
        (run / ".lock").unlink()
        if how == "replace":
            (run / ".lock").write_text("")
        lock.check()
        assert not can_be_taken(run)
        lock.check()
    assert can_be_taken(run)


def test_a_run_whose_lock_was_removed_and_taken_by_another_stops_at_its_next_save(tmp_path, monkeypatch):
    run, save, started = tmp_path / "run", CheckpointManager.save, []

    def removed(self, step, files, is_last=False):
        if step == 2:
            (run / ".lock").unlink()
            started.append(other_process(run))
        save(self, step, files, is_last)

    monkeypatch.setattr(CheckpointManager, "save", removed)
    with pytest.raises(SaveError, match=r"\.lock was removed .*process \d+ is training this run.*: after 1 update\b"):
        train(faults.config(run, **{**SHORT, "on_save_error": "continue"}), console=Console(quiet=True))
    assert not (run / "checkpoints/step_00000002").exists()
    kill(started[0][0])
    monkeypatch.undo()
    assert resume(run, console=Console(quiet=True)).step == 3


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_there_are_no_locks_the_run_says_so_once_and_trains(cli, run, monkeypatch, number):
    def refuse(descriptor, how):
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
    code, printed = cli("resume", run, "--train.total_steps=4", "--resume.on_change=override")
    assert code == 0, printed
    assert printed.count("no lock is held") == 1
    assert f"{run}: no lock is held, as " in printed
    with locked(run, lambda line: None), pytest.raises(ConfigError, match="in another thread"):
        resume(run)


def test_a_disk_that_fails_is_not_a_disk_without_locks(cli, run, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    code, printed = cli("resume", run)
    assert (code, "Input/output error" in printed, "Traceback" in printed) == (1, True, False)


def test_what_is_not_a_lock_is_neither_followed_nor_written(cli, run, tmp_path):
    victim = tmp_path / "victim"
    makers = {
        "a link": lambda path: path.symlink_to(victim),
        "a link to nothing": lambda path: path.symlink_to(tmp_path / "nothing"),
        "a hard link": lambda path: os.link(victim, path),
        "a folder": lambda path: path.mkdir(),
        "a pipe": os.mkfifo,
        "a text": lambda path: path.write_text("poetry's\n"),
    }
    for make in makers.values():
        victim.write_text("precious")
        locks.os.path.isdir(run / ".lock") and (run / ".lock").rmdir()
        (run / ".lock").unlink(missing_ok=True)
        make(run / ".lock")
        code, printed = cli("resume", run)
        assert code == 2
        assert f"{run / '.lock'}: is not a lock that innerstep made. Remove it" in printed
        assert victim.read_text() == "precious"
        assert not (tmp_path / "nothing").exists()


def test_a_run_of_another_user_can_be_looked_at_and_not_taken_up(whole, run, tmp_path, lives):
    if os.getuid():
        pytest.skip("only root can become another user")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder != folder.parent and not folder.stat().st_mode & 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    for arguments, expected, text in (
        (["checkpoint", "verify", run], 0, ": ok ("),
        (["checkpoint", "inspect", run], 0, "after 3 updates"),
        (["resume", run], 1, "cannot be written: [Errno 13] Permission denied"),
    ):
        out = tmp_path / "out"
        pid = os.fork()
        if pid == 0:
            code = as_another(arguments, out)
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected, out.read_text()
        assert text in out.read_text()
        assert "Traceback" not in out.read_text()


def as_another(arguments, out):
    from trainer.cli.main import main

    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115  # until it ends
    os.setgid(65534)
    os.setuid(65534)
    sys.argv = ["innerstep", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        return stop.code or 0
    return 99
