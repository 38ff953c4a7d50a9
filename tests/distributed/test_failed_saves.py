"""A save that fails in one of several processes fails in all of them, and leaves the older checkpoint as it was."""

import io
import os
import random
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from processes import WorkerError
from rich.console import Console
from sample_saved_parts import MLP, WARMUP, saving_config
from trouble import TooLarge
from worlds import own_world, trainer_of

from optimizer.state.tensor_files import _PieceWriter
from trainer import ConfigError, SaveError, load_config
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.names import step_of
from trainer.checkpoint.shared_folder import check_shared
from trainer.checkpoint.writing import clear_leftovers
from trainer.errors import UserCodeError

WIDE = {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [300]}}
PARTS = {
    "components": {"first": MLP, "second": {**WIDE, "placement": "shard"}, "third": MLP, "fourth": WIDE},
    "optims": dict.fromkeys(("first", "second", "third", "fourth"), WARMUP),
    "ema": None,
}
"""The main process writes the run's own files, and rank 1 wide components: both write more than TooLarge allows."""


def trained_with_full_disk(made, rank, step):
    """Train while the disk of one rank is full at the save after `step` updates; return error, output and step."""
    trouble, write, world = TooLarge(), CheckpointManager._write, own_world()

    def troubled(manager, at, *others):
        if at != step or world.rank != rank:
            return write(manager, at, *others)
        trouble.begin(None)
        try:
            return write(manager, at, *others)
        finally:
            trouble.end(None)

    CheckpointManager._write = troubled
    trainer = trainer_of(made)
    trainer.console = Console(file=io.StringIO(), width=1000)
    error = None
    try:
        trainer.run()
    except SaveError as found:
        error = str(found)
    finally:
        CheckpointManager._write = write
    return error, trainer.console.file.getvalue(), trainer.step, trainer.checkpoints.holds(step)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_of_one_process_stops_all_and_names_it(two_workers, tmp_path, rank, asynchronous):
    made = saving_config(tmp_path / "run", save_async=asynchronous, **PARTS)
    reports = two_workers.call(trained_with_full_disk, made, rank, 6)
    for error, _, _, holds in reports:
        assert f"after 6 updates failed: rank {rank} (" in error
        assert "File too large" in error
        assert "The newest complete checkpoint: after 3 updates" in error
        assert not holds
    assert reports[0][2] == reports[1][2]
    checkpoints = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000003"]
    verify(checkpoints / "step_00000003")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_continue_after_a_full_disk_if_the_config_says_so(two_workers, tmp_path, asynchronous):
    made = saving_config(tmp_path / "run", save_async=asynchronous, on_save_error="continue", **PARTS)
    reports = two_workers.call(trained_with_full_disk, made, 1, 6)
    assert [report[0] for report in reports] == [None, None]
    assert [report[2] for report in reports] == [12, 12]
    assert "after 6 updates failed: rank 1 (" in reports[0][1]
    assert "Training continues." in reports[0][1]
    there = complete_checkpoints(tmp_path / "run/checkpoints")
    assert [step_of(folder) for folder in there] == [12, 9, 3]
    assert [path.name for path in (tmp_path / "run/checkpoints").glob(".*")] == []


def contents_with_a_sparse_buffer(made, rank):
    """Try to save while a component of one rank has a buffer that no file can hold, and then without it."""
    trainer = trainer_of(made)
    linear = next(module for module in trainer.components["third"].modules() if isinstance(module, torch.nn.Linear))
    if own_world().rank == rank:
        linear.register_buffer("sparse", torch.zeros(2, 2).to_sparse())
    error = None
    try:
        trainer.save()
    except UserCodeError as found:
        error = type(found).__name__, str(found)
    if own_world().rank == rank:
        del linear.sparse
    trainer.save()
    return error


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_cannot_save_is_reported_by_all(two_workers, tmp_path, rank):
    for kind, text in two_workers.call(contents_with_a_sparse_buffer, saving_config(tmp_path / "run", **PARTS), rank):
        assert kind == "UnsavableError"
        assert text.startswith(f"rank {rank} (")
        assert "model.components.third" in text
        assert "sparse" in text
    assert len(complete_checkpoints(tmp_path / "run/checkpoints")) == 1


def trained_elsewhere(made, other):
    """Begin a run whose directory leads to another place on rank 1, as on a machine without the shared disk."""
    trainer = trainer_of(made)
    if own_world().rank == 1:
        Path(other).mkdir()
        trainer.checkpoints._train = trainer.config.train.model_copy(update={"run_dir": Path(other)})
    try:
        trainer.run()
    except ConfigError as error:
        return str(error)


def test_a_process_that_does_not_see_the_run_directory_is_named_before_the_first_update(two_workers, tmp_path):
    texts = two_workers.call(trained_elsewhere, saving_config(tmp_path / "run"), tmp_path / "other")
    for text in texts:
        assert "train.run_dir: must be on a file system that all processes share; rank 1 (" in text
    assert str(tmp_path / "run") in texts[0]
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_single_process_checks_no_directory(tmp_path):
    check_shared(tmp_path / "not there", own_world())


FILES = {
    **{f"part{index}/a.safetensors": {"a": torch.arange(64)} for index in range(3)},
    **{f"part{index}/b.json": {"b": index} for index in range(3)},
    "trainer.json": {"step": 3},
}


def killed_in_a_save(made, rank, fatal):
    """Save four times; process `rank` is killed before operation number `fatal` on the disk of the second save.

    Returns the operations of the second save.
    """
    saves = CheckpointManager(load_config(made).train, print, own_world())
    count = 0

    def counted(original):
        def operation(*arguments, **options):
            nonlocal count
            count += 1
            if own_world().rank == rank and count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return operation

    saves.save(1, FILES)
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in [(Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "open"), (os, "fsync")]:
            patched.setattr(owner, name, counted(getattr(owner, name)))
        patched.setattr(tempfile, "mkdtemp", counted(tempfile.mkdtemp))
        patched.setattr(_PieceWriter, "_write_room", counted(_PieceWriter._write_room))
        saves.save(2, FILES)
    saves.save(3, FILES)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_at_any_moment_of_a_save_a_checkpoint_is_complete_or_absent(two_workers, tmp_path, rank):
    (tmp_path / "whole").mkdir()
    operations = two_workers.call(killed_in_a_save, saving_config(tmp_path / "whole", **PARTS), rank, 0)[rank]
    assert operations > 8
    seen = set()
    for fatal in sorted(random.Random(0).sample(range(1, operations + 1), min(10, operations))):
        run = tmp_path / str(fatal)
        run.mkdir()
        with pytest.raises(WorkerError) as error:
            two_workers.call(killed_in_a_save, saving_config(run, **PARTS), rank, fatal)
        assert "ended with -9" in error.value.failures[rank]
        assert "SaveError: saving the checkpoint after 2 updates failed" in error.value.failures[1 - rank]
        there = complete_checkpoints(run / "checkpoints")
        clear_leftovers(run / "checkpoints")
        assert there == complete_checkpoints(run / "checkpoints")
        assert [path.name for path in (run / "checkpoints").glob(".*")] == []
        for folder in there:
            verify(folder)
        seen.add(tuple(step_of(folder) for folder in there))
    assert seen <= {(1,), (2, 1)}
    assert (1,) in seen
