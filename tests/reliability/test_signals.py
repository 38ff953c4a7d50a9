"""Signals: the first ends the run after the update and its checkpoint, a second SIGINT or SIGTERM at once."""

import json
import os
import re
import signal
import time

import faults
import pytest
import trouble
from conftest import DIGITS, start

from optimizer.config.messages import counted
from trainer.runtime.signals import Interruption

STEP = 7
ORDERS = (signal.SIGINT, signal.SIGTERM)
"""Those of which a second one ends the process at once."""


@pytest.fixture(scope="module")
def whole(lives, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    lives.whole(run, **OPTIONS)
    return faults.end_of(run)


OPTIONS = {"save_every": 4}


def written(run, **changed):
    path = run.with_name("config.json")
    path.write_text(json.dumps(faults.config(run, **OPTIONS, **changed)))
    return path


def at_update(number, then=None):
    """Send the signal after an update; then, if another is given, that while the checkpoint is written."""
    from trainer import offline_trainer
    from trainer.checkpoint import writing as checkpoint_writing

    updates, write_json = offline_trainer.training_loop, checkpoint_writing.write_json

    def signalled(*given):
        for report in updates(*given):
            if report.step == STEP - 1:
                os.kill(os.getpid(), number)
            yield report

    def again(path, values):
        if then is not None and values.get("step") == STEP and path.name == "trainer.json":
            handler = signal.getsignal(then)
            os.kill(os.getpid(), then)
            for _ in range(
                3000 if number in ORDERS else 1
            ):  # this is not the main thread, which has to take the signal, however busy the machine
                if signal.getsignal(then) is not handler:
                    break
                time.sleep(0.01)
            time.sleep(0.5)  # it takes its time
        write_json(path, values)

    offline_trainer.training_loop, checkpoint_writing.write_json = signalled, again


def while_the_disk_hangs(seconds, marker):
    """Press Ctrl-C twice while a thread writes to a disk that does not answer for so long."""
    from trainer.checkpoint import writing as checkpoint_writing

    def hanging(path, *given):
        if path.parts[-2:] == ("first", "model.safetensors"):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)  # the main thread has to take each
            time.sleep(seconds)
            marker.touch()
        return write_tensors(path, *given)

    write_tensors, checkpoint_writing.write_tensors = checkpoint_writing.write_tensors, hanging


def at_evaluation(number):
    from trainer import evaluations

    evaluate = evaluations.evaluate

    def signalled(*given):
        os.kill(os.getpid(), number)
        return evaluate(*given)

    evaluations.evaluate = signalled


def while_saving(number):
    from trainer.checkpoint import writing as checkpoint_writing

    write_json = checkpoint_writing.write_json

    def signalled(path, values):
        if values.get("step") == 4 and path.name == "trainer.json":
            os.kill(os.getpid(), number)
        write_json(path, values)

    checkpoint_writing.write_json = signalled


def stopped(connection, arguments, run, prepare, *numbers):
    # A shell starts what it runs in the background with SIGINT ignored, and all its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(*numbers)
    trouble.troubled(connection, arguments, run)


def command(lives, arguments, run, prepare, *numbers):
    return trouble.command(lives, arguments, run, target=stopped, more=(prepare, *numbers))


def taken_up(lives, run):
    code, printed = trouble.command(lives, ["resume", run], run)
    assert code == 0, printed
    return faults.end_of(run)


MODES = pytest.mark.parametrize("save_async", [False, True], ids=["sync", "async"])


@MODES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("prepare", [at_update, at_evaluation, while_saving])
def test_a_signal_ends_the_run_after_the_update_and_its_checkpoint(lives, whole, tmp_path, number, prepare, save_async):
    run = tmp_path / "run"
    code, printed = command(lives, ["train", written(run, save_async=save_async)], run, prepare, number)
    assert code == 75, printed
    after = faults.check_what_is_there(run) and (run / "checkpoints/latest").read_text().strip()
    done = int(after.removeprefix("step_"))
    way_on = f"`innerstep resume {run}` continues there"
    assert f"{number.name}: stopped after {counted(done, 'update')}; they are saved; {way_on}" in printed
    assert done in {at_update: (STEP,), at_evaluation: (2,), while_saving: (4, 5, 6)}[prepare]
    assert whole.differences(taken_up(lives, run)) == []


@MODES
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_it_at_once(lives, whole, tmp_path, number, code, save_async):
    run = tmp_path / "run"
    ended, printed = command(lives, ["train", written(run, save_async=save_async)], run, at_update, number, number)
    assert ended == code, printed
    assert "Traceback" not in printed
    faults.check_what_is_there(run)
    assert not (run / "checkpoints" / f"step_{STEP:08d}").exists()
    assert whole.differences(taken_up(lives, run)) == []


@MODES
def test_a_second_interrupt_does_not_wait_for_a_disk_that_hangs(lives, whole, tmp_path, save_async):
    run, marker = tmp_path / "run", tmp_path / "waited"
    arguments = ["train", written(run, save_async=save_async)]
    ended, printed = command(lives, arguments, run, while_the_disk_hangs, 10.0, marker)
    assert (ended, marker.exists()) == (130, False), printed
    assert whole.differences(taken_up(lives, run)) == []


@MODES
def test_a_signal_where_nothing_can_be_saved_is_no_success(lives, tmp_path, save_async):
    run = tmp_path / "run"
    path = written(run, save_async=save_async, on_save_error="continue")
    code, printed = command(lives, ["train", path], run, refused_at_update, signal.SIGTERM)
    assert code == 1, printed
    assert "they are saved" not in printed
    assert "The newest complete checkpoint: after 6 updates." in printed


def refused_at_update(number):
    at_update(number)
    from trainer.checkpoint import writing as checkpoint_writing

    write_json = checkpoint_writing.write_json

    def refuse(path, values):
        if values.get("step") == STEP:
            raise OSError(28, os.strerror(28), str(path))
        write_json(path, values)

    checkpoint_writing.write_json = refuse


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2, signal.SIGXCPU])
def test_a_warning_may_be_followed_by_one_signal_more(lives, whole, tmp_path, number):
    """A cluster warns with SIGUSR1 and sends SIGTERM later: the checkpoint is finished all the same."""
    run = tmp_path / "run"
    code, printed = command(lives, ["train", written(run)], run, at_update, signal.SIGUSR1, number)
    assert code == 75, printed
    assert f"SIGUSR1: stopped after {STEP} updates" in printed
    assert whole.differences(taken_up(lives, run)) == []


def test_what_a_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.signal is None
            os.kill(os.getpid(), signal.SIGUSR2)
            assert interruption.signal is signal.SIGUSR2
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_limit_of_cpu_time_that_was_met_ends_nothing_any_more():
    """The kernel sends its signal each second from then on."""
    before = signal.getsignal(signal.SIGXCPU)
    try:
        with Interruption():
            assert signal.getsignal(signal.SIGXCPU) is not before
        assert signal.getsignal(signal.SIGXCPU) is before
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGXCPU)
            assert interruption.signal is signal.SIGXCPU
        os.kill(os.getpid(), signal.SIGXCPU)
    finally:
        signal.signal(signal.SIGXCPU, before)


def test_outside_the_main_thread_and_afterwards_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("is_alone", "error"), [(False, ValueError), (True, ValueError), (False, KeyboardInterrupt)])
def test_after_an_error_among_several_processes_sigterm_does_not_end_one_before_its_report(is_alone, error):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(error), Interruption(is_alone):
            raise error
        if not is_alone and error is ValueError:
            os.kill(os.getpid(), signal.SIGTERM)  # has no effect
            with Interruption(is_alone) as interruption:  # a later run takes it
                os.kill(os.getpid(), signal.SIGTERM)
                assert interruption.signal is signal.SIGTERM
        else:
            assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    options = ["--train.save_every=10", "--train.total_steps=100000"]  # it does not end before the signal
    process = start("train", DIGITS, f"--train.run_dir={run}", *options)
    while not (run / "checkpoints/latest").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75
    assert re.search(rf"SIGINT: stopped after \d+ updates; they are saved; `innerstep resume {run}` continues", printed)
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_lets_it_save(tmp_path, number):
    run = tmp_path / "run"
    options = ["--train.save_every=10", "--data.workers=2", "--train.total_steps=100000"]
    process = start("train", DIGITS, f"--train.run_dir={run}", *options, start_new_session=True)
    while not (run / "checkpoints/latest").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 75, printed
    assert f"{number.name}: stopped after" in printed
    assert "Traceback" not in printed
