"""A run that is killed at any moment ends as it would have: the same files and metrics, bit for bit."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import faults
import pytest
import torch
from sample_runs import KilledError

from optimizer.state import atomic_files as files
from optimizer.state import tensor_files
from trainer import SaveError
from trainer.checkpoint import names as checkpoint_names
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.names import read_pointer, step_of
from trainer.checkpoint.writing import clear_leftovers
from trainer.config.load import load_config
from trainer.runs import train
from trainer.runtime import files as disk


@pytest.mark.parametrize("variant", faults.VARIANTS)
def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(lives, tmp_path, variant):
    changed = faults.VARIANTS[variant]
    seconds = lives.whole(tmp_path / "whole", **changed)
    killed = faults.chain(lives, tmp_path / "killed", 5, seconds, random.Random(variant), **changed)
    assert faults.end_of(tmp_path / "whole").differences(killed.end) == []


class Operations:
    """Counts what is done to the disk, and dies before operation number `fatal`."""

    def __init__(self, monkeypatch, fatal):
        self.count, self.fatal, self.fsync = 0, fatal, os.fsync  # which takes its time, and tells nothing here
        targets = [(Path, name) for name in ("rename", "replace", "mkdir", "unlink")]
        targets += [(os, name) for name in ("fsync", "unlink", "rmdir")] + [(tensor_files._PieceWriter, "_write_room")]
        targets += [(tempfile, "mkdtemp"), (files, "encode_json")]
        for owner, name in targets:
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, original):
        def operation(*arguments, **options):
            self.count += 1
            if self.count >= self.fatal:  # what would be done after a kill is not done
                raise KilledError
            return None if original is self.fsync else original(*arguments, **options)

        return operation


FILES = {"part/a.safetensors": {"a": torch.arange(64)}, "b.json": {"b": 1}}
LOSSES = {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.7, 5: 0.3}


def saving(run):
    keep = {"keep_last": 2, "keep_best": {}, "total_steps": 9}
    return CheckpointManager(load_config(faults.config(run, **keep)).train, pytest.fail)


def save_five_times(run):
    """Save after each of five updates, the second and the fifth the best so far; yield when one is there."""
    saves = saving(run)
    for step, loss in LOSSES.items():
        if step == 4:  # as a resume from an earlier checkpoint does: this one is there already
            shutil.copytree(run / "checkpoints" / "step_00000003", run / "checkpoints" / "step_00000004")
        saves.best.observe(step, {"loss": loss})
        saves.save(step, FILES | {"c.json": {"best": saves.best.record}})
        yield step


def test_killed_before_any_operation_on_the_disk_the_newest_checkpoint_is_whole(tmp_path):
    for fatal in range(1, 1000):
        run, done = tmp_path / str(fatal), 0
        run.mkdir()
        with pytest.MonkeyPatch.context() as patched:
            operations = Operations(patched, fatal)
            try:
                for step in save_five_times(run):
                    done = step
            except KilledError:
                pass
        if operations.count < fatal:  # it ended
            assert fatal > 100, "it dies at too few places"
            return
        check_after_kill(run, done)
    raise AssertionError("it never ends")


def check_after_kill(run, done):
    checkpoints = run / "checkpoints"
    clear_leftovers(checkpoints)
    there = complete_checkpoints(checkpoints)
    if done:
        assert step_of(there[0]) in (done, done + 1), "one that was said to be there is gone"
    for folder in there:
        if step_of(folder) != 4:  # the copy, until it is replaced
            assert verify(folder)["step"] == step_of(folder)
    if there:
        again = saving(run)
        again.best.record = disk.read_json(there[0] / "c.json")["best"]
        again.best.write_pointer()
        assert read_pointer(checkpoints, "best") == checkpoints / checkpoint_names.folder_name(
            again.best.record["step"]
        )


def test_what_gets_its_name_is_on_the_disk_already(tmp_path, monkeypatch):
    """A power failure loses what was not flushed; nothing may be renamed before all that is in it was."""
    flushed, renamed, fsync, rename, replace = set(), [], os.fsync, Path.rename, Path.replace

    def flushing(descriptor):
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renaming(original):
        def move(path, target):
            if not any(part.startswith(".") for part in Path(target).relative_to(tmp_path).parts):
                renamed.append(Path(target).name)
                inside = [path, *path.rglob("*")] if path.is_dir() else [path]
                assert {each for each in inside if each.stat().st_ino not in flushed} == set()
            return original(path, target)

        return move

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "rename", renaming(rename))
    monkeypatch.setattr(Path, "replace", renaming(replace))
    for step in save_five_times(tmp_path):
        assert (tmp_path / "checkpoints").stat().st_ino in flushed, "else the name is not on the disk"
        assert tmp_path.stat().st_ino in flushed
        assert renamed[-1] in ("latest", "best")
        assert f"step_{step:08d}" in renamed


def test_killed_while_it_writes_its_config_a_run_begins_anew(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.new").write_text("seed: 0\nda")
    assert train(faults.config(run, total_steps=3, eval_every=1)).step == 3


def test_what_fails_beside_training_is_not_lost(tmp_path):
    raw = load_config(faults.config(tmp_path, save_async=True)).train
    saves = CheckpointManager(raw, pytest.fail)
    saves.save(1, {"b.json": {"b": object()}})
    with pytest.raises(SaveError, match="TypeError: Object of type object is not JSON serializable"):
        saves.wait()
