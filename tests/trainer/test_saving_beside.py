"""Saving beside training: the values of the moment of the save, and the memory of the copy."""

import gc
import io
import os
import signal
import threading
import weakref

import pytest
import torch
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import SaveError, StoppedBySignal, offline_trainer, train
from trainer.checkpoint import manager as saving
from trainer.checkpoint import writing
from trainer.checkpoint.directory import verify
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.shares import Share
from trainer.config.schema import TrainConfig
from trainer.runtime.files import read_tensors

WEIGHTS = "part/model.safetensors"


@pytest.fixture
def manager(tmp_path):
    fields = {"objective": {"type": "classification"}, "total_steps": 9, "run_dir": tmp_path, "save_async": True}
    return CheckpointManager(TrainConfig.model_validate(fields), pytest.fail)


def written(manager, step):
    """Return the weight in a checkpoint whose checksums are right."""
    folder = manager.latest.with_name(f"step_{step:08d}")
    verify(folder)
    return read_tensors(folder / WEIGHTS)["weight"]


class Writes:
    """Checkpoint writing that begins when `may_begin` is set, and remembers the tensors that it is given."""

    def __init__(self, monkeypatch):
        self.may_begin, self.tensors, write = threading.Event(), [], saving.write_checkpoint

        def waiting(folder, step, share, *others):
            share = Share(share.names, list(share.parts))
            self.tensors += [content["weight"] for part in share.parts for content in part.values()]
            assert self.may_begin.wait(60)
            return write(folder, step, share, *others)

        monkeypatch.setattr(saving, "write_checkpoint", waiting)


@pytest.fixture
def writes(monkeypatch):
    return Writes(monkeypatch)


def test_updates_that_are_made_while_a_checkpoint_is_written_are_not_in_it(manager, writes):
    weight = torch.arange(300_000.0)
    with manager:
        for step in (1, 2, 3):
            writes.may_begin.clear()
            manager.save(step, {WEIGHTS: {"weight": weight}})
            before = weight.clone()
            weight.mul_(-2.0)
            writes.may_begin.set()
            manager.wait()
            assert torch.equal(written(manager, step), before)


def test_the_memory_of_a_copy_is_used_again_and_given_back_at_the_end(manager, writes):
    writes.may_begin.set()
    with manager:
        for step in (1, 2):
            manager.save(step, {WEIGHTS: {"weight": torch.ones(1000)}})
            manager.wait()
        first, second = writes.tensors
        assert first.data_ptr() == second.data_ptr()
        memory = weakref.ref(second)
        writes.tensors.clear()
        del first, second
        assert memory() is not None
    gc.collect()
    assert memory() is None


def test_the_last_checkpoint_is_written_without_a_copy(manager, writes):
    writes.may_begin.set()
    weight = torch.ones(1000)
    with manager:
        manager.save(1, {WEIGHTS: {"weight": weight}})
        manager.wait()
        manager.save(2, {WEIGHTS: {"weight": weight}}, is_last=True)
        assert manager.holds(2)
        assert written(manager, 2).equal(weight)
    copied, last = writes.tensors
    assert copied.data_ptr() != weight.data_ptr() == last.data_ptr()


def test_a_failure_while_the_run_ends_is_reported(manager, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_checkpoint", fails)
    with pytest.raises(saving.SaveError, match="No space left"), manager:
        manager.save(1, {WEIGHTS: {"weight": torch.ones(2)}})


def test_where_the_system_refuses_a_thread_the_next_save_is_possible(manager, monkeypatch):
    def refused(*_):
        raise RuntimeError("can't start new thread")

    with manager:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="start new thread"):
                manager.save(1, {WEIGHTS: {"weight": torch.ones(2)}})
        assert not manager.holds(1)
        manager.save(2, {WEIGHTS: {"weight": torch.ones(2)}})
    assert written(manager, 2).equal(torch.ones(2))


@pytest.fixture
def fails_at(monkeypatch):
    """Return a function that lets files of the checkpoint after some updates not be written, so many times."""

    def fail(step, times):
        failures, write_tensors = iter(range(times)), writing.write_tensors

        def written(path, *given):
            if f"step_{step:08d}" in path.parts and next(failures, None) is not None:
                raise OSError(28, "No space left on device", str(path))
            return write_tensors(path, *given)

        monkeypatch.setattr(writing, "write_tensors", written)

    return fail


def trained(run, **changed):
    made = config(
        run,
        MLPS,
        {"first": ADAMW, "second": ADAMW},
        save_async=True,
        save_every=1,
        on_save_error="continue",
        **changed,
    )
    return train(made, console=Console(file=io.StringIO()))


IMPATIENT = {"eval_every": 2, "early_stopping": {"monitor": "val_loss", "patience": 1, "min_delta": 100.0}}


def test_the_last_checkpoint_of_a_run_that_ends_early_is_written_again_after_a_failure(tmp_path, fails_at):
    fails_at(4, 1)
    assert trained(tmp_path / "run", **IMPATIENT).step == 4
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_00000004\n"


def test_a_run_that_ends_early_and_cannot_be_saved_has_not_succeeded(tmp_path, fails_at):
    fails_at(4, 1000)
    with pytest.raises(SaveError, match=r"after 4 updates failed: .*No space left.*checkpoint: after 3 updates"):
        trained(tmp_path / "run", **IMPATIENT)


def test_the_last_checkpoint_before_a_signal_is_written_again_after_a_failure(tmp_path, fails_at, monkeypatch):
    updates = offline_trainer.training_loop

    def signalled(*given):
        for report in updates(*given):
            if report.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    monkeypatch.setattr(offline_trainer, "training_loop", signalled)
    fails_at(7, 1)
    with pytest.raises(StoppedBySignal, match="stopped after 7 updates; they are saved"):
        trained(tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step_00000007\n"
