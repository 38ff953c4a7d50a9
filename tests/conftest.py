import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("heavyball") is not None:
    import heavyball.utils

    heavyball.utils.compile_mode = None  # its compiler would take longer than all tests together

if "INNERSTEP_CACHE" not in os.environ:  # compiled steps are kept for all processes of these tests, and no longer
    os.environ["INNERSTEP_CACHE"] = tempfile.mkdtemp(prefix="innerstep-tests-")
    atexit.register(shutil.rmtree, os.environ["INNERSTEP_CACHE"], ignore_errors=True)

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits.yaml"
COMMAND = Path(sys.executable).with_name("innerstep")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def lives():
    """Return an object that starts short-lived processes, which train and can be killed."""
    import faults  # which imports from here

    return faults.Lives()


@pytest.fixture(scope="session")
def two_workers():
    """Two processes joined by gloo: `two_workers.call(function, *arguments)` returns the results of both."""
    yield from _workers(2)


@pytest.fixture(scope="session")
def four_workers():
    """Four of them, for tests marked `slow`."""
    yield from _workers(4)


def _workers(size):
    from processes import Workers

    workers = Workers(size)
    yield workers
    workers.close()


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process; return (exit code, what it printed)."""

    def run(*arguments):
        from trainer.cli.main import main

        monkeypatch.setattr(sys, "argv", ["innerstep", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out + printed.err

    return run


NO_TORCH_COMPILE = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler for torch.compile")
NO_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, called cc")


def needs(package):
    """Mark a test that uses `package`, which `make test` installs and `make test-versions` does not."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}")


def start(*arguments, **options):
    """Start the command line as a separate process, which receives SIGINT even if the tests run in the background."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/support'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it there
        **options,
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, output
    return output


TIMED = ("updates_per_second", "data_wait")
"""The values in a line of metrics that time decides."""


def metrics_of(run_dir):
    """Return a run's metrics without those values."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def files_of(checkpoint):
    """Return the checksums of a checkpoint's files by name: pytest would take an hour to compare the bytes."""
    paths = [path for path in checkpoint.rglob("*") if path.is_file()]
    return {path.relative_to(checkpoint).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def trace(optimizer, length):
    """Return the lr of each of the next `length` updates, which have no gradients."""
    lrs = []
    for _ in range(length):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return lrs
