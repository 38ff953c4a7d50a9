"""Runs under torchrun: restarts, what it prints, and what is left when it is killed. Linux only."""

import json
import os
import signal
import socket
import time

import pytest
from commands import write_experiment
from conftest import files_of
from killed_ranks import last_step, train_with_kills
from processes import launched, torchrun

HOST = socket.gethostname()
pytestmark = pytest.mark.slow


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.05)


def newest(run):
    return max((run / "checkpoints").glob("step_*"))


def test_a_run_whose_ranks_are_killed_ends_as_the_undisturbed_one(tmp_path):
    path = write_experiment(tmp_path, pause=0.05, total_steps=150)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = torchrun(2, "train", path, "--or-resume", f"--train.run_dir={whole}", "--train.log_every=1")
    assert code == 0, output
    train_with_kills(path, killed, kills=3, seed=0)
    names = ("first/model.safetensors", "second/optimizer.safetensors", "second/optimizer.json")
    for name in names:
        assert files_of(newest(killed))[name] == files_of(newest(whole))[name]
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert (tmp_path / "killed.txt").read_text().count(f"({HOST}) is gone") == 3


def test_torchrun_prints_the_reason_of_the_process_that_failed_first(tmp_path):
    code, output = torchrun(2, "train", write_experiment(tmp_path, "raise"))
    assert code == 1
    assert "error: stopped, as rank 1" in output.partition("FAILED")[0], "by the main process"
    root = output.partition("Root Cause")[2]
    assert "rank      : 1" in root
    assert "ValueError: a bad sample" in root
    assert "To enable traceback" not in output


def test_a_run_that_is_done_does_not_fail_at_the_end_of_python(tmp_path):
    path = write_experiment(tmp_path)
    path.write_text(path.read_text().replace('"plugins": [', '"plugins": ["sample_late_abort", '))
    code, output = torchrun(2, "train", path)
    assert code == 0, output
    assert output.count("called at exit") == 2
    assert "done: 12 updates" in output


@pytest.mark.parametrize("begun", [True, False], ids=["in training", "at the start"])
def test_a_killed_torchrun_leaves_no_process(tmp_path, begun):
    path = write_experiment(tmp_path, pause=0.01, total_steps=100_000, workers=1)
    with launched(2, "train", path, "--or-resume") as launch:
        wait_for(lambda: last_step(tmp_path / "run") > 5 if begun else len(launch.pids()) >= 3)
        assert len(launch.pids()) >= 3
        launch.torchrun.kill()
        wait_for(lambda: not launch.pids(), 15)


@pytest.mark.parametrize("rank", [None, 0, 1, "all"], ids=["torchrun", "rank 0", "rank 1", "all, twice"])
def test_a_signal_to_one_stops_all_after_a_checkpoint_with_one_message(tmp_path, rank):
    run = tmp_path / "run"
    with launched(2, "train", write_experiment(tmp_path, pause=0.01, total_steps=100_000)) as launch:
        wait_for(lambda: last_step(run) > 5)
        both = [*launch.pids(0), *launch.pids(1)]  # a scheduler sends it to all, and torchrun passes its own on
        pids = {None: [launch.torchrun.pid], "all": [*both, *both, launch.torchrun.pid]}
        for pid in pids.get(rank) or launch.pids(rank)[:1]:
            os.kill(pid, signal.SIGTERM)
        launch.finish()
        printed = [line for line in launch.output().splitlines() if line.startswith("SIGTERM: stopped after")]
        assert len(printed) == 1, launch.output()
    assert int(newest(run).name.removeprefix("step_")) == last_step(run) + 1


def test_a_mistake_in_the_config_is_printed_once_an_attempt(tmp_path):
    code, output = torchrun(
        2, "train", write_experiment(tmp_path), "--train.totl_steps=3", options=("--max-restarts=1",)
    )
    assert code == 1
    assert len([line for line in output.splitlines() if line.startswith("error: ") and "totl_steps" in line]) == 2
    assert not (tmp_path / "run").exists()
