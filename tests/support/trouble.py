"""Disks that fill up, and folders that vanish, under a run in a separate process."""

import errno
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import faults


class TooLarge:
    """Files may not grow beyond a few kilobytes."""

    def begin(self, run):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

    def end(self, run):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Full:
    """The disk is full; the run is on a separate one."""

    def begin(self, run):
        with (run.parent / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017  # in a child, for the sake of the rest

    def end(self, run):
        (run.parent / "filler").unlink()


class ReadOnly:
    """The folder of the checkpoints is mounted read-only."""

    def begin(self, run):
        folder = str(run / "checkpoints")
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        for _ in range(500):  # it is busy while a thread has a file open that it writes
            if subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True).returncode == 0:
                return
            time.sleep(0.01)
        raise AssertionError("the folder was always busy")

    def end(self, run):
        subprocess.run(["umount", str(run / "checkpoints")], check=True)


class Refused:
    """Writing fails with EROFS, without a mount."""

    def begin(self, run):
        from trainer.checkpoint import writing as checkpoint_writing

        self.original = checkpoint_writing.write_json
        checkpoint_writing.write_json = self.refuse

    def refuse(self, path, values):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def end(self, run):
        from trainer.checkpoint import writing as checkpoint_writing

        if hasattr(self, "original"):
            checkpoint_writing.write_json = self.original


class Vanished:
    """The run's directory is not there, as when a network disk goes away."""

    def begin(self, run):
        run.rename(run.with_name("elsewhere"))

    def end(self, run):
        run.with_name("elsewhere").rename(run)


class Removed:
    """The checkpoints are removed, once."""

    def begin(self, run):
        (run / "checkpoints").rename(run / "old")

    def end(self, run):
        assert (run / "checkpoints").is_dir()


TROUBLES = {cls.__name__: cls for cls in (TooLarge, Full, ReadOnly, Refused, Vanished)}
REMOVED = {"Removed": Removed}
FROM, UNTIL = 7, 12


def troubled(connection, arguments, run, trouble=None, until=UNTIL):
    """Run the command line in this process, with trouble after update FROM and until that number."""
    import torch

    from trainer import offline_trainer
    from trainer.cli import main as cli

    torch.set_num_threads(1)
    updates = offline_trainer.training_loop

    def with_trouble(*given):
        for report in updates(*given):
            if trouble is not None and report.step == FROM:
                one.begin(run)
            if trouble is not None and report.step == until:
                one.end(run)
            yield report

    one = (TROUBLES | REMOVED)[trouble]() if trouble is not None else None
    offline_trainer.training_loop = with_trouble
    os.dup2(connection.fileno(), 1)
    os.dup2(connection.fileno(), 2)
    sys.argv = ["innerstep", *map(str, arguments)]
    os.environ["COLUMNS"] = "1000"
    cli.main()


def command(lives: faults.Lives, arguments, run: Path, trouble=None, until=UNTIL, target=troubled, more=None):
    """Run the command line in a separate process; return its exit code and output."""
    ours, theirs = lives.context.Pipe()
    process = lives.context.Process(target=target, args=(theirs, arguments, run, *(more or (trouble, until))))
    process.start()
    theirs.close()
    process.join(120)
    os.set_blocking(ours.fileno(), False)
    try:
        printed = os.read(ours.fileno(), 1 << 20).decode()
    except (BlockingIOError, ConnectionResetError):
        printed = ""
    return process.exitcode, printed
