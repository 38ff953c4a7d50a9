"""Files that a user asks for: written aside and renamed, never through a link; tools beside a run that trains."""

import errno
import io
import os
import re
import resource
import shutil
import stat
import threading

import faults
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from sample_damage import DAMAGE, NOT_FILES
from sample_runs import config

from trainer import resume, train
from trainer.checkpoint import directory as checkpoint_files
from trainer.checkpoint import names as checkpoint_names
from trainer.checkpoint.directory import complete_checkpoints
from trainer.checkpoint.shares import Share
from trainer.checkpoint.tools import export as exporting
from trainer.checkpoint.tools import inspect as inspection
from trainer.checkpoint.tools.inspect import verification
from trainer.checkpoint.writing import remove_checkpoints, write_checkpoint
from trainer.runtime.files import read_json, read_tensors

QUIET = Console(file=io.StringIO())
PLOT = ("plot", "cosine", "--total_steps=40", "--out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("outputs") / "run"
    train(faults.config(run, total_steps=6), console=QUIET)
    return run


def commands(run, out):
    """Return each command that writes `out`, and whether it replaces a file unasked."""
    return {
        ".safetensors": ("checkpoint", "export", run, "--overwrite", "--out", out),
        ".png": (*PLOT, out),
        ".svg": (*PLOT, out),
    }


@pytest.mark.parametrize("ending", [".safetensors", ".png", ".svg"])
@pytest.mark.parametrize("kind", [*NOT_FILES, "a link to a file"])
def test_nothing_is_written_through_a_link_or_into_what_is_not_a_file(cli, whole, tmp_path, monkeypatch, ending, kind):
    monkeypatch.chdir(tmp_path)
    victim, out = tmp_path / "victim", tmp_path / f"out{ending}"
    victim.write_text("precious")
    make = NOT_FILES[kind][0] if kind in NOT_FILES else lambda path: path.symlink_to(victim)
    make(out)
    before = out.lstat()
    code, printed = cli(*commands(whole, out)[ending])
    assert (code, printed.startswith(f"error: --out: {out} "), printed.count("\n")) == (2, True, 1), printed
    assert victim.read_text() == "precious"
    assert os.path.samestat(out.lstat(), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, "victim"])


def test_export_takes_a_link_to_nothing_for_a_file_that_is_there(cli, whole, tmp_path):
    out = tmp_path / "w.safetensors"
    out.symlink_to("elsewhere")
    code, printed = cli("checkpoint", "export", whole, "--out", out)
    assert (code, "is there already" in printed, out.is_symlink()) == (2, True, True)


@pytest.mark.parametrize("ending", [".safetensors", ".png", ".svg"])
def test_a_write_that_fails_leaves_the_old_file(cli, whole, tmp_path, ending):
    out = tmp_path / f"out{ending}"
    out.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        code, printed = cli(*commands(whole, out)[ending])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, f"--out: {out} cannot be written: " in printed, "Traceback" in printed) == (2, True, False), printed
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "old"
    assert cli(*commands(whole, out)[ending])[0] == 0
    assert out.stat().st_size > 512


@pytest.mark.parametrize("ending", [".safetensors", ".png", ".svg"])
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EIO])
def test_folders_that_cannot_be_flushed_are_no_obstacle(cli, whole, tmp_path, monkeypatch, ending, number):
    fsync = os.fsync

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    code, printed = cli(*commands(whole, tmp_path / f"out{ending}")[ending])
    assert (code, "Traceback" in printed) == (2 if number == errno.EIO else 0, False), printed


@pytest.mark.parametrize("umask", [0o007, 0o037])
def test_pictures_have_the_mode_that_the_umask_leaves(cli, whole, tmp_path, umask):
    before = os.umask(umask)
    try:
        for ending in (".png", ".svg"):
            assert cli(*commands(whole, tmp_path / f"out{ending}")[ending])[0] == 0
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("kind", ["a link to a folder", "a link to nothing", "a file", "a pipe"])
def test_a_conversion_goes_into_a_new_folder_only(cli, whole, tmp_path, kind):
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    {
        "a link to a folder": lambda: out.symlink_to(empty),
        "a link to nothing": lambda: out.symlink_to(tmp_path / "nothing"),
        "a file": lambda: out.write_text("mine"),
        "a pipe": lambda: os.mkfifo(out),
    }[kind]()
    before = out.lstat()
    code, printed = cli("checkpoint", "convert", whole, out, "--to", "torch")
    assert (code, printed) == (2, f"error: {out}: is there already. Choose another folder, or remove it.\n")
    assert os.path.samestat(out.lstat(), before)
    assert not list(empty.iterdir())


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.mark.parametrize("kind", ["a terabyte of nothing", "a pipe", "a device", "a link to itself"])
@pytest.mark.parametrize("file", ["checkpoints/latest", "checkpoints/step_00000006/manifest.json"])
def test_a_file_of_the_run_that_is_none_is_neither_read_nor_waited_for(cli, copy, file, kind):
    (copy / file).unlink()
    {**DAMAGE, **NOT_FILES}[kind][0](copy / file)
    code, printed = cli("checkpoint", "verify", copy)
    assert (code, f"{copy / file}: " in printed, "Traceback" in printed) == (1, True, False), printed
    code, printed = cli("checkpoint", "inspect", copy)
    assert (code, "Traceback" in printed) == (0 if file.endswith("latest") else 2, False), printed


def removing_once(monkeypatch, module, name, folder):
    """Let the run remove the checkpoint in `folder` when `module` first calls `name`."""
    real, gone = getattr(module, name), []

    def after_removal(*arguments):
        if not gone:
            gone.append(folder)
            remove_checkpoints([folder])
        return real(*arguments)

    monkeypatch.setattr(module, name, after_removal)


@pytest.mark.parametrize("name", ["read_manifest", "read_progress", "opened_tensors", "read_json"])
def test_inspect_takes_the_next_checkpoint_if_the_run_removes_the_one_it_reads(cli, copy, monkeypatch, name):
    newest, before = complete_checkpoints(copy / "checkpoints")[:2]
    removing_once(monkeypatch, inspection, name, newest)
    code, printed = cli("checkpoint", "inspect", copy)
    assert (code, printed.startswith(f"{before}: after ")) == (0, True), printed
    removing_once(monkeypatch, inspection, name, before)
    code, printed = cli("checkpoint", "inspect", before)
    assert (code, "there is no checkpoint here" in printed) == (2, True), printed


@pytest.mark.parametrize("name", ["verify", "read_tensors"])
def test_export_does_too(cli, copy, tmp_path, monkeypatch, name):
    newest, before = complete_checkpoints(copy / "checkpoints")[:2]
    expected = load_file(before / "first/model.safetensors")
    removing_once(monkeypatch, exporting, name, newest)
    out = tmp_path / "w.safetensors"
    assert cli("checkpoint", "export", copy, "--out", out, "--component", "first")[0] == 0
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(out).items())


def test_verify_takes_nothing_for_damage_that_is_removed_or_written_again(copy, monkeypatch):
    checkpoints = copy / "checkpoints"
    first, second, third = sorted(complete_checkpoints(checkpoints), key=checkpoint_names.step_of)[-3:]
    real = inspection.verify

    def meanwhile(folder):
        if folder == second and not (copy / "old").exists():  # written again while it is read
            second.rename(copy / "old")
            shutil.copytree(copy / "old", second)
            raise checkpoint_files.DamagedCheckpointError("read half before and half after")
        if folder == first and first.exists():
            remove_checkpoints([first])
        return real(folder)

    monkeypatch.setattr(inspection, "verify", meanwhile)
    whole, text = verification(copy)
    assert whole, text
    assert [str(folder) in text for folder in (first, second, third)] == [False, True, True]


def test_verify_and_inspect_beside_a_run_that_keeps_one_checkpoint(copy):
    checkpoints, seen = copy / "checkpoints", []
    newest, *others = complete_checkpoints(checkpoints)
    remove_checkpoints(others)
    (checkpoints / "best").unlink()
    paths = [path for path in newest.rglob("*.*") if path.name != "manifest.json"]
    files = {
        str(path.relative_to(newest)): (read_json if path.suffix == ".json" else read_tensors)(path) for path in paths
    }

    def save_and_prune():
        before = newest
        for step in range(100, 112):
            folder = write_checkpoint(checkpoints, step, Share.of(files))
            remove_checkpoints([before])
            before = folder

    saving = threading.Thread(target=save_and_prune)
    saving.start()
    while saving.is_alive():
        seen.append(verification(copy))
        assert "after 6 updates" in inspection.inspection(copy)
    saving.join()
    assert [text for is_whole, text in seen if not is_whole] == []
    assert all(re.search(r"step_\d+: ok", text) for _, text in seen)


def test_a_run_whose_only_checkpoint_is_removed_while_it_is_looked_for_has_the_next(copy, monkeypatch):
    checkpoints, real = copy / "checkpoints", os.listdir
    newest, *others = complete_checkpoints(checkpoints)
    remove_checkpoints(others)
    shutil.copytree(newest, copy / "next")

    def listing(folder):
        names = real(folder)
        if (copy / "next").exists():
            (copy / "next").rename(checkpoints / "step_00000007")
            remove_checkpoints([newest])
        return names

    monkeypatch.setattr(checkpoint_files.os, "listdir", listing)
    assert complete_checkpoints(checkpoints) == [checkpoints / "step_00000007"]


def test_a_component_called_checkpoints_works_everywhere(cli, tmp_path):
    components = {"checkpoints": {"type": "normed"}, "head": {"type": "normed"}}
    optims = {name: {"type": "adamw"} for name in components}
    run = tmp_path / "run"
    train(config(run, components, optims, total_steps=3, save_every=1), console=QUIET)
    resume(run, {"train.total_steps": 4}, console=QUIET)
    step = run / "checkpoints/step_00000004"
    expected = load_file(step / "checkpoints/model.safetensors")
    for to, source in (("torch", run), ("innerstep", tmp_path / "torch"), ("lerobot", tmp_path / "innerstep")):
        code, printed = cli("checkpoint", "convert", source, tmp_path / to, "--to", to)
        assert code == 0, printed
    moved = shutil.copytree(step, tmp_path / "moved")
    for path in (run, step, moved):
        assert cli("checkpoint", "verify", path)[0] == 0
        assert cli("checkpoint", "inspect", path)[0] == 0
        assert cli("checkpoint", "diff", path, step)[0] == 0
        out = tmp_path / f"{path.name}.safetensors"
        assert cli("checkpoint", "export", path, "--component", "checkpoints", "--out", out)[0] == 0
        assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(out).items())
    for number, path in enumerate((run, step, moved, step / "checkpoints", tmp_path / "innerstep/checkpoints")):
        said = Console(file=io.StringIO(), width=500)
        again = {**components, "checkpoints": {"type": "normed", "init_from": str(path)}}
        train(config(tmp_path / f"next{number}", again, optims, total_steps=1), console=said)
        assert "checkpoints: 7 of 7 tensors from" in said.file.getvalue()
