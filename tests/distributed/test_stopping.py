"""Signals to processes of a run at different moments: all stop after the same update, and a resume equals the run."""

import json
import os
import re
import signal
import time

import faults
import pytest
from processes import launched
from run_together import UPDATES, after_updates, config, interrupt, replaced, trained
from torch import distributed

from trainer import evaluations
from trainer.checkpoint.manager import CheckpointManager

LONG = 500
"""Updates of a run that does not end before the signal."""


def in_the_second_evaluation(rank):
    """Let a process get a signal while it evaluates after four updates."""
    evaluate, calls = evaluations.evaluate, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2 and distributed.get_rank() == rank:
            interrupt()
        return evaluate(*given)

    return replaced(evaluations, "evaluate", interrupted)


def in_the_save(rank, step=4):
    """Let a process get a signal while it saves after some updates."""
    save = CheckpointManager.save

    def interrupted(manager, done, *given):
        if done == step and distributed.get_rank() == rank:
            interrupt()
        save(manager, done, *given)

    return replaced(CheckpointManager, "save", interrupted)


def stopped(made, prepare, moment):
    undo = prepare(moment)
    try:
        return trained(made)
    finally:
        undo()


@pytest.fixture(scope="module")
def whole(two_workers, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert two_workers.call(trained, config(run)) == [(UPDATES, None)] * 2
    return faults.end_of(run, UPDATES)


@pytest.mark.parametrize("save_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("prepare", "moment", "steps"),
    [
        (after_updates, [(0, 5)], (5, 6)),  # they ask each other about once a second, and before each evaluation
        (after_updates, [(1, 5)], (5, 6)),
        (after_updates, [(0, 4), (1, 6)], (4,)),
        (in_the_second_evaluation, 0, (4,)),
        (in_the_second_evaluation, 1, (4,)),
        (in_the_save, 0, (4,)),
        (in_the_save, 1, (4,)),
    ],
)
def test_processes_stop_after_the_same_update(two_workers, whole, tmp_path, prepare, moment, steps, save_async):
    run = tmp_path / "run"
    made = config(run, save_async=save_async)
    results = two_workers.call(stopped, made, prepare, moment)
    assert results[0] == results[1]
    step, message = results[0]
    assert message.startswith(f"SIGTERM: stopped after {step} updates; they are saved")
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    assert newest.name == f"step_{step:08d}"
    assert step in steps
    assert two_workers.call(trained, made, newest) == [(UPDATES, None)] * 2
    assert whole.differences(faults.end_of(run, UPDATES)) == []


def launched_run(folder, run, *more):
    path = folder / "config.json"
    path.write_text(json.dumps(config(run, total_steps=LONG, save_every=100, eval_every=200, log_every=50)))
    return launched(2, "train", path, "--or-resume", *more)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    with launched_run(folder, folder / "run") as launch:
        assert launch.finish() == 0, launch.output()
    return faults.end_of(folder / "run", LONG)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 0, 1], ids=["torchrun", "rank 0", "rank 1"])
def test_a_launch_that_gets_a_signal_saves_and_continues_as_if_there_was_none(long_run, tmp_path, rank):
    run = tmp_path / "run"
    with launched_run(tmp_path, run) as launch:
        while not (run / "checkpoints/latest").exists():
            assert launch.torchrun.poll() is None, launch.output()
            time.sleep(0.01)
        (pid,) = [launch.torchrun.pid] if rank is None else launch.pids(rank)
        os.kill(pid, signal.SIGTERM)
        code, printed = launch.finish(), launch.output()
    assert code != 0
    found = re.findall(r"^SIGTERM: stopped after (\d+) updates; they are saved", printed, re.MULTILINE)
    assert len(found) == 1, printed
    assert (run / "checkpoints/latest").read_text().strip() == f"step_{int(found[0]):08d}"
    assert printed.count("Traceback") <= 1  # torchrun's own
    with launched_run(tmp_path, run) as launch:
        assert launch.finish() == 0, launch.output()
    assert long_run.differences(faults.end_of(run, LONG)) == []
