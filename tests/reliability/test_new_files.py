"""Each file that a run makes is new and has the mode that the umask leaves; tidying up fails no save."""

import errno
import io
import os
import shutil
import stat

import faults
import pytest
import torch
from rich.console import Console

from optimizer.state.atomic_files import open_to_append, replacing, write_json
from optimizer.state.tensor_files import write_tensors
from trainer import resume, train
from trainer.checkpoint import writing as checkpoint_writing
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.runtime import files as disk

SHORT = {"total_steps": 4, "eval_every": 1, "keep_last": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("files") / "run"
    train(faults.config(run, **SHORT), console=Console(file=io.StringIO()))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o002, 0o077], indirect=True)
def test_every_file_and_folder_has_the_mode_that_the_umask_leaves(cli, tmp_path, umask):
    run = tmp_path / "run"
    train(faults.config(run, **SHORT, pictures=True), console=Console(file=io.StringIO()))
    out = tmp_path / "weights.safetensors"
    assert cli("checkpoint", "export", run, "--out", out)[0] == 0
    assert cli("checkpoint", "convert", run, tmp_path / "torch", "--to", "torch")[0] == 0
    assert cli("checkpoint", "convert", tmp_path / "torch", tmp_path / "back", "--to", "innerstep")[0] == 0
    for path in [out, *run.rglob("*"), *(tmp_path / "torch").rglob("*"), *(tmp_path / "back").rglob("*")]:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run", "torch", "weights.safetensors"]


@pytest.mark.parametrize("write", [write_json, write_tensors])
def test_a_link_or_a_file_in_the_place_of_a_new_file_is_not_written(tmp_path, write):
    victim, path = tmp_path / "victim", tmp_path / "new"
    victim.write_text("precious")
    content = {"a": torch.ones(1)} if write is write_tensors else {"a": 1}
    for make in (path.symlink_to, lambda target: os.link(target, path), lambda target: shutil.copy(target, path)):
        make(victim)
        with pytest.raises(FileExistsError):
            write(path, content)
        assert victim.read_text() == "precious"
        path.unlink()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.mkdir()])
def test_nothing_is_appended_to_what_is_not_a_file(tmp_path, make):
    path = tmp_path / "metrics.jsonl"
    make(path)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        open_to_append(path)
    if path.is_fifo():
        with pytest.raises(OSError, match="a named pipe, and not a file"):
            open_to_append(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # somebody may wait at the other end of a pipe
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            open_to_append(path)
    finally:
        os.close(reader)


def test_links_under_any_name_that_could_be_guessed_are_not_followed(run, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    names = [".config.yaml.new", ".metrics.jsonl.new", ".losses.png", ".removed-a", ".innerstep-b"]
    names += [f"checkpoints/.{name}" for name in ("latest.new", "best.new", "unfinished-step_00000004", "unfinished-x")]
    names += [f"checkpoints/.{name}" for name in ("replaced-step_00000003", "removed-y", "innerstep-z")]
    for name in names:
        (run / name).symlink_to(victim)
    resume(run, {"train.keep_last": 1}, console=Console(file=io.StringIO()))
    assert (victim / "precious").read_text() == "x"
    assert not [name for name in names if os.path.lexists(run / name)], "the links are gone"


def test_what_a_killed_process_left_is_removed(run):
    for name in (".innerstep-a/config.yaml", ".removed-b/losses.png", "checkpoints/.innerstep-c/latest",
                 "checkpoints/.unfinished-d/step_00000009/x", "checkpoints/.removed-e/step_00000001/x"):  # fmt: skip
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("")
    (run / "checkpoints/.unfinished-file").write_text("")
    resume(run, console=Console(file=io.StringIO()))
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "checkpoints", "config.yaml", "metrics.jsonl", "timeline.jsonl"]  # fmt: skip
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("save_async", [False, True])
def test_what_cannot_be_removed_hinders_neither_saving_nor_resuming(whole, tmp_path, monkeypatch, number, save_async):
    run, said = tmp_path / "run", io.StringIO()

    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(disk, "remove", refuse)
        patched.setattr(checkpoint_writing, "remove", refuse)
        train(faults.config(run, **SHORT, save_async=save_async), console=Console(file=said, width=500))
        assert said.getvalue().count("cannot be removed") == 1
        assert verify(complete_checkpoints(run / "checkpoints")[0])["step"] == 4
        left = len(list((run / "checkpoints").glob(".removed-*")))
        resume(run, {"train.keep_last": 1, "train.save_every": 2}, console=Console(file=said, width=500))
    assert left > 0
    resume(run, console=Console(file=said))
    assert not list((run / "checkpoints").glob(".*")), "it is tried again"
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []


NO_FLUSH = [errno.EINVAL, errno.EBADF, errno.ENOTSUP]


def refusing_folders(number, at_open=False):
    fsync, opened = os.fsync, os.open

    def flushing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and not at_open:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    def opening(path, flags, *arguments, **options):
        if at_open and os.path.isdir(path) and "pytest" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *arguments, **options)

    return flushing, opening


@pytest.mark.parametrize(("number", "at_open"), [(n, False) for n in NO_FLUSH] + [(errno.EACCES, True)])
def test_where_folders_cannot_be_flushed_a_run_trains(tmp_path, monkeypatch, number, at_open):
    flushing, opening = refusing_folders(number, at_open)
    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(disk.os, "open", opening)
    assert train(faults.config(tmp_path / "run", **SHORT), console=Console(file=io.StringIO())).step == 4


def test_a_disk_that_fails_is_not_one_that_cannot_flush(run, monkeypatch, cli):
    monkeypatch.setattr(os, "fsync", refusing_folders(errno.EIO)[0])
    code, printed = cli("resume", run, "--train.keep_last=1")
    assert (code, "Input/output error" in printed, "Traceback" in printed) == (1, True, False)


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as aside:
        write_tensors(aside, {"a": torch.ones(2), "b": torch.eye(2).to_sparse()})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"
