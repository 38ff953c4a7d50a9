"""The demo, killed and resumed in a new process: the same weights, learning rates and metrics."""

import os
import random
import signal
import time

import pytest
from conftest import DIGITS, NO_COMPILER, files_of, finish, metrics_of, start

pytestmark = pytest.mark.slow

OPTIONS = ["--train.total_steps=90", "--train.save_every=20", "--train.eval_every=30", "--train.pictures=false"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    begun = time.monotonic()
    finish(start("train", DIGITS, *OPTIONS, f"--train.run_dir={run}"))
    return run, time.monotonic() - begun


def assert_same_run(run, whole):
    for step in (80, 90):
        checkpoint = f"checkpoints/step_{step:08d}"
        assert files_of(run / checkpoint) == files_of(whole / checkpoint)
    assert metrics_of(run) == metrics_of(whole)


def killed_and_resumed(run, options):
    process = start("train", DIGITS, *options, f"--train.run_dir={run}")
    while not (run / "checkpoints/step_00000040").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "resuming after" in finish(start("resume", run))


def test_killed_after_a_checkpoint_and_resumed(whole, tmp_path):
    killed_and_resumed(tmp_path / "run", OPTIONS)
    assert_same_run(tmp_path / "run", whole[0])


@NO_COMPILER
def test_with_batches_of_one_size_compiled_modules_resume_too(tmp_path):
    options = [*OPTIONS, "--train.compile=true", "--data.drop_last=true"]
    finish(start("train", DIGITS, *options, f"--train.run_dir={tmp_path / 'whole'}"))
    killed_and_resumed(tmp_path / "run", options)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_and_resumed(whole, tmp_path, seed):
    run, moments = tmp_path / "run", random.Random(seed)
    process = start("train", DIGITS, *OPTIONS, f"--train.run_dir={run}")
    for _ in range(2):
        time.sleep(moments.uniform(0, whole[1]))
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
        begun = (run / "config.yaml").exists()  # else it was killed before the run was there
        process = start("resume", run) if begun else start("train", DIGITS, *OPTIONS, f"--train.run_dir={run}")
    finish(process)
    assert_same_run(run, whole[0])
