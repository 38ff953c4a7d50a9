"""Terminals that fail under a run: it is the same run, with the same exit code and the same files."""

import io
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import warnings

import faults
import pytest
import sample_runs
import torch
from conftest import COMMAND, ROOT, metrics_of
from rich.console import Console

from trainer import train
from trainer.checkpoint.directory import verify
from trainer.runtime.streams import steady_process

OPTIONS = {"save_every": 4, "total_steps": 12}
BROKEN_AT = 5
"""The update during which a terminal is lost."""
WITH_ARROWS = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-2, "start_lr": 1e-4, "warmup_steps": 3}}


def written(run):
    """Write the config of a run whose plan has arrows."""
    config = faults.config(run, **OPTIONS)
    config["model"]["component_optims"] = config["model"]["component_optims"] | {"first": WITH_ARROWS}
    config["train"] |= {"keep_best": None}
    run.with_name("config.json").write_text(json.dumps(config))
    return run.with_name("config.json")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is compared is computed with as many threads as in the processes that `lives` starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(written(run), console=Console(file=io.StringIO()))
    return run


def check_is(run, whole):
    """Check that a run is the one that nothing happened to."""
    assert metrics_of(run) == metrics_of(whole)
    assert (run / "checkpoints/latest").read_text() == (whole / "checkpoints/latest").read_text()
    names = sorted(path.name for path in (whole / "checkpoints").glob("step_*"))
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == names
    for name in names:
        files = [verify(folder / "checkpoints" / name)["files"] for folder in (run, whole)]
        weights = [{key: value for key, value in each.items() if key.endswith(".safetensors")} for each in files]
        assert weights[0] == weights[1]


def full(streams):
    """The device is full from the start."""
    for stream in streams:
        os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def closed_pipe(streams):
    """Nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    for stream in streams:
        os.dup2(writing, stream)


def not_there(streams):
    """The process was started without the streams: Python has None for them."""
    for stream in streams:
        os.close(stream)
        setattr(sys, {1: "stdout", 2: "stderr"}[stream], None)


def closed_in_python(streams):
    for stream in streams:
        {1: sys.stdout, 2: sys.stderr}[stream].close()


def of_ascii(streams):
    for stream in streams:
        {1: sys.stdout, 2: sys.stderr}[stream].reconfigure(encoding="ascii", errors="strict")


def without_blocking(streams):
    """Nobody reads a pipe that is full already, and does not wait."""
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, b"x" * (1 << 16))
    for stream in streams:
        os.dup2(writing, stream)


def talkative():
    """Let what a user brings print, warn and log in every update, and write to the descriptors as C does."""
    from trainer import offline_trainer

    updates = offline_trainer.training_loop

    def with_talk(*given):
        for report in updates(*given):
            for stream in (sys.stdout, sys.stderr):
                stream.write(f"↗ update {report.step}\n")
                stream.flush()
            warnings.warn(f"update {report.step}", stacklevel=1)
            logging.warning("update %d", report.step)
            for descriptor in (1, 2):
                try:
                    os.write(descriptor, b"from C\n")
                except OSError:
                    assert descriptor in (1, 2)
            yield report

    offline_trainer.training_loop = with_talk


def commanded(arguments, prepare, streams, report):
    """Run the command line in this process, with its streams prepared; write its exit code to a file."""
    import torch

    from trainer.cli import main as cli

    torch.set_num_threads(1)
    sys.argv = ["innerstep", *map(str, arguments)]
    talkative()
    prepare(streams)
    try:
        cli.main()
    except SystemExit as stop:
        report.write_text(str(stop.code or 0))
    else:
        report.write_text("0")


def command(lives, tmp_path, arguments, prepare, streams):
    report = tmp_path / "code"
    process = lives.context.Process(target=commanded, args=(arguments, prepare, streams, report))
    process.start()
    process.join(100)
    return int(report.read_text())


BOTH = [(prepare, (1, 2)) for prepare in (full, closed_pipe, not_there, closed_in_python, of_ascii, without_blocking)]


@pytest.mark.parametrize(("prepare", "streams"), [*BOTH, (full, (1,)), (closed_pipe, (1,)), (not_there, (2,))])
def test_a_run_is_the_same_whatever_its_terminal(lives, whole, tmp_path, prepare, streams):
    assert command(lives, tmp_path, ["train", written(tmp_path / "run")], prepare, streams) == 0
    check_is(tmp_path / "run", whole)


def without_descriptors(report):
    os.closerange(0, 3)
    with steady_process():
        opened = os.open(report, os.O_CREAT | os.O_WRONLY)
        for descriptor in (1, 2):
            os.write(descriptor, b"from C\n")
            assert os.get_inheritable(descriptor)
        os.write(opened, str(opened).encode())


def test_no_file_gets_the_number_of_a_closed_stream(lives, tmp_path):
    """Libraries in C, and compilers, write to the numbers 1 and 2."""
    process = lives.context.Process(target=without_descriptors, args=(tmp_path / "report",))
    process.start()
    process.join(60)
    assert int((tmp_path / "report").read_text()) > 2


@pytest.mark.parametrize("prepare", [full, of_ascii])
def test_a_resume_is_the_same_whatever_its_terminal(lives, whole, tmp_path, prepare):
    run = tmp_path / "run"
    train(written(run), console=Console(file=io.StringIO()))
    for name in ("step_00000008", "step_00000012"):
        sample_runs.drop(run / "checkpoints" / name)
    (run / "checkpoints/latest").write_text("step_00000004\n")
    assert command(lives, tmp_path, ["resume", run], prepare, (1, 2)) == 0
    check_is(run, whole)


@pytest.mark.parametrize(
    ("asked", "prepare", "code"),
    [(asked, full, 1) for asked in ("plan", "plot", "list", "inspect", "verify")]
    + [("plan", closed_pipe, 0), ("verify", closed_pipe, 0), ("list", not_there, 0), ("plot", of_ascii, 0)],
)
def test_what_a_command_was_asked_for_is_printed_or_it_fails(lives, whole, tmp_path, asked, prepare, code):
    path = whole.with_name("config.json") if asked in ("plan", "plot") else whole
    arguments = {"inspect": ["checkpoint"], "verify": ["checkpoint"]}.get(asked, [])
    arguments = [*arguments, asked, *([] if asked == "list" else [path])]
    assert command(lives, tmp_path, arguments, prepare, (1,)) == code


def test_an_export_is_done_also_where_nothing_can_be_printed(lives, whole, tmp_path):
    out = tmp_path / "weights.safetensors"
    assert command(lives, tmp_path, ["checkpoint", "export", whole, "--out", out], full, (1, 2)) == 0
    assert out.is_file()


def test_a_mistake_has_its_exit_code_where_nothing_can_be_printed(lives, whole, tmp_path):
    assert command(lives, tmp_path, ["train", whole / "nothing.yaml"], full, (1, 2)) == 2


class Failing(io.StringIO):
    """A file that fails after its first lines, as a widget or a network does: with whatever exception."""

    def __init__(self, error, terminal):
        super().__init__()
        self.error, self.terminal, self.writes = error, terminal, 0

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.writes += 1
        if self.writes > 3:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("closed"), RuntimeError("gone")])
def test_a_console_that_fails_ends_no_run(whole, tmp_path, error, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file, streams = Failing(error, terminal), (sys.stdout, sys.stderr)
    console = Console(file=file, force_terminal=terminal)
    result = train(written(tmp_path / "run"), console=console)
    assert (result.step, file.writes > 3) == (12, True)
    check_is(tmp_path / "run", whole)
    assert console.file is file
    assert (sys.stdout, sys.stderr) == streams


def test_a_console_without_a_file_follows_the_standard_output_again(tmp_path, capsys, monkeypatch):
    console = Console()
    train(written(tmp_path / "run"), console=console)
    assert "after 12 updates" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console.print("here")
    assert sys.stdout.getvalue() == "here\n"


def at_update(number, action):
    from trainer import offline_trainer

    updates = offline_trainer.training_loop

    def with_action(*given):
        for report in updates(*given):
            if report.step == number:
                action()
            yield report

    offline_trainer.training_loop = with_action


def on_a_terminal(terminal, arguments, report, connection, hangup):
    """Run the command line on `terminal`, which is its own; at an update let the other side close it."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # the first that a session opens controls it
    for stream in (0, 1, 2):
        os.dup2(descriptor, stream)
    os.environ["TERM"] = "xterm"
    signal.signal(signal.SIGHUP, hangup)

    def lose():
        connection.send("now")
        connection.recv()

    at_update(BROKEN_AT, lose)
    commanded(arguments, lambda streams: None, (), report)


@pytest.mark.parametrize(("hangup", "code"), [(signal.SIG_IGN, 0), (signal.SIG_DFL, 75)], ids=["nohup", "hangup"])
def test_a_terminal_that_vanishes_loses_nothing(lives, whole, tmp_path, hangup, code):
    run, report = tmp_path / "run", tmp_path / "code"
    ours, theirs = lives.context.Pipe()
    master, slave = pty.openpty()
    arguments = ["train", written(run)]
    target = (os.ttyname(slave), arguments, report, theirs, hangup)
    process = lives.context.Process(target=on_a_terminal, args=target)
    process.start()
    shown = b""
    while not ours.poll(0):  # until the update in which it is lost
        if select.select([master], [], [], 0.05)[0]:
            shown += os.read(master, 1 << 16)
        assert process.is_alive()
    os.close(master)
    os.close(slave)
    ours.recv()
    ours.send("done")
    process.join(100)
    assert b"schedule" in shown
    assert int(report.read_text()) == code
    if code == 0:
        check_is(run, whole)
    else:
        assert (run / "checkpoints/latest").read_text() == "step_00000006\n"


def interrupted_at_once(connection, arguments, place):
    """Run the command line, and interrupt it while it builds, or twice while it trains."""
    from trainer import offline_trainer
    from trainer.cli import main as cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(connection.fileno(), stream)
    if place == "build":
        offline_trainer.build_components = lambda *given: os.kill(os.getpid(), signal.SIGINT)
    else:
        at_update(BROKEN_AT, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    sys.argv = ["innerstep", *map(str, arguments)]
    os.environ["COLUMNS"] = "1000"
    cli.main()


@pytest.mark.parametrize("place", ["build", "train"])
def test_an_interrupt_offers_the_way_on_where_there_is_one(lives, tmp_path, place):
    run = tmp_path / "a run's (one); ls"
    ours, theirs = lives.context.Pipe()
    process = lives.context.Process(target=interrupted_at_once, args=(theirs, ["train", written(run)], place))
    process.start()
    theirs.close()
    process.join(100)
    printed = os.read(ours.fileno(), 1 << 20).decode()
    assert process.exitcode == 130
    if place == "build":
        assert printed == "interrupted\n"
    else:
        quoted = f"'{tmp_path}/a run'\"'\"'s (one); ls'"
        assert printed.endswith(f"\ninterrupted; `innerstep resume {quoted}` continues the run\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("{} train {} | head -1; exit ${{PIPESTATUS[0]}}", 0, r"component .*schedule\n"),
        ("{} plan {} | head -1; exit ${{PIPESTATUS[0]}}", 0, r"component .*schedule\n"),
        ("{} plan {} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{} train {} > /dev/full", 0, ""),
        ("{} plan {} > /dev/full", 1, "error: the output cannot be written: No space left on device\n"),
        ("{} train {} >&- 2>&- <&-", 0, ""),
        ("{} train {} < /dev/null > /dev/full 2>&1", 0, ""),
        ("PYTHONIOENCODING=cp1252 {} train {}", 0, r"(?s)component .*1e-04 -> 1e-02 \(3\) -> 0 \(12\).*"),
        ("PYTHONIOENCODING=latin-1 {} plan {}", 0, r"(?s)component .*1e-04 -> 1e-02 \(3\) -> 0 \(12\).*"),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {} train {}", 0, r"(?s)component .*"),
        ("LC_ALL=en_US.ISO-8859-1 {} train {}", 0, r"(?s)component .*"),
    ],
)
def test_the_command_in_a_shell(whole, tmp_path, line, code, said):
    run = tmp_path / "run"
    paths = f"{ROOT / 'tests/support'}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", line.format(COMMAND, written(run))], capture_output=True, cwd=ROOT, env=environment, timeout=100
    )
    assert done.returncode == code
    printed = (done.stdout + done.stderr).decode("latin-1")
    assert re.fullmatch(said, printed), printed
    if " train " in line:
        check_is(run, whole)
