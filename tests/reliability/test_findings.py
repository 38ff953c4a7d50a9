"""Unreadable, newer and damaged checkpoints: the messages about them, and what happens to them."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import faults
import mutations
import pytest
from rich.console import Console

from trainer import resume, train
from trainer.checkpoint.directory import complete_checkpoints
from trainer.checkpoint.init_from import find_source
from trainer.config.init_from import InitConfig
from trainer.run_layout import MANIFEST

STEPS = {"total_steps": 4, "eval_every": 1, "keep_last": None}
LAST = "checkpoints/step_00000004"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("findings") / "run"
    train(faults.config(run, **STEPS), console=Console(file=io.StringIO()))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def refuse(monkeypatch, refused, number):
    """Let the system refuse to read `refused`, and what is in it."""

    def refusing(original):
        def operation(path, *arguments, **options):
            if Path(path) == refused or (refused.is_dir and refused in Path(path).parents):
                raise OSError(number, os.strerror(number), str(path))
            return original(path, *arguments, **options)

        return operation

    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr(Path, "read_bytes", refusing(Path.read_bytes))
    monkeypatch.setattr(os, "listdir", refusing(os.listdir))
    if number != errno.EIO:  # a disk that fails may still know the name
        monkeypatch.setattr(Path, "stat", refusing(Path.stat))


UNREADABLE = ["manifest.json", "trainer.json", "rng.safetensors", "first/optimizer.json", "second/model.safetensors"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTDIR, errno.ETIMEDOUT])
@pytest.mark.parametrize("file", [f"{LAST}/{name}" for name in UNREADABLE] + ["checkpoints/latest"])
def test_what_cannot_be_read_now_stops_a_resume_and_changes_nothing(cli, run, monkeypatch, number, file):
    before = everything(run)
    with monkeypatch.context() as patched:
        refuse(patched, run / file, number)
        code, printed = cli("resume", run, "--train.total_steps=6")
    assert code == 1, printed
    assert f"{run / file}: cannot be read: {os.strerror(number)}" in printed
    assert "damaged" not in printed
    assert "Traceback" not in printed
    assert everything(run) == before
    code, printed = cli("resume", run)
    assert "resuming after 4 of 4 updates" in printed, "it was whole"


def test_a_folder_that_cannot_be_listed_stops_a_resume(cli, run, monkeypatch):
    before = everything(run)
    with monkeypatch.context() as patched:
        refuse(patched, run / "checkpoints", errno.EIO)
        code, printed = cli("resume", run)
    assert (code, "Input/output error" in printed, "Traceback" in printed) == (1, True, False)
    assert everything(run) == before


@pytest.mark.parametrize("command", ["inspect", "verify", "export", "diff"])
def test_commands_that_cannot_read_say_why(cli, run, whole, tmp_path, monkeypatch, command):
    further = {"export": ["--out", tmp_path / "w.safetensors"], "diff": [whole]}.get(command, [])
    refuse(monkeypatch, run / LAST / "first/model.safetensors", errno.EACCES)
    code, printed = cli("checkpoint", command, run, *further)
    assert code == 1
    assert "first/model.safetensors: cannot be read: Permission denied" in printed
    assert not (tmp_path / "w.safetensors").exists()


def test_a_run_does_not_start_from_weights_that_cannot_be_read(cli, run, tmp_path, monkeypatch):
    raw = faults.config(tmp_path / "new")
    raw["model"]["components"] = {**faults.COMPONENTS, "first": {"type": "normed", "init_from": str(run)}}
    (tmp_path / "c.json").write_text(json.dumps(raw))
    refuse(monkeypatch, run / LAST / "first/model.safetensors", errno.ESTALE)
    code, printed = cli("train", tmp_path / "c.json")
    assert (code, f"cannot be read: {os.strerror(errno.ESTALE)}" in printed) == (1, True)
    assert not (tmp_path / "new").exists()


def of_format(folder, version):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"format_version": version, "shards": 4}
    mutations.seal_manifest(folder, manifest)


@pytest.mark.parametrize(("steps", "version"), [((4,), 2), ((1, 2, 3, 4), 3), ((3, 4), 17)])
def test_a_newer_format_asks_for_an_upgrade_and_nothing_older_is_taken(cli, run, steps, version):
    for step in steps:
        of_format(run / f"checkpoints/step_{step:08d}", version)
    before = everything(run)
    code, printed = cli("resume", run, "--train.total_steps=6", "--train.keep_last=1")
    assert code == 2
    assert f"was written by a newer innerstep (format version {version}); this one reads up to 1. Upgrade" in printed
    assert "damaged" not in printed
    assert everything(run) == before
    assert cli("checkpoint", "verify", run)[0] == 1


def test_a_newer_checkpoint_is_not_pruned(cli, run):
    of_format(run / "checkpoints/step_00000002", 2)
    code, _ = cli("resume", run, "--train.total_steps=6", "--train.keep_last=1", "--resume.on_change=override")
    assert code == 0
    best = (run / "checkpoints/best").read_text().strip()
    kept = {path.name for path in complete_checkpoints(run / "checkpoints")}
    assert kept == {"step_00000002", "step_00000006", best}


def test_a_version_that_a_flipped_bit_made_is_damage(cli, run):
    path = run / LAST / MANIFEST
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    code, printed = cli("resume", run)
    assert (code, "damaged checkpoint: " in printed) == (0, True)


def test_what_a_run_goes_back_from_is_kept_and_neither_counted_nor_taken(cli, run):
    for number in (1, 2):
        (run / LAST / "trainer.json").write_text("{")
        code, printed = cli("resume", run)
        name = "damaged-step_00000004" + ("-2" if number == 2 else "")
        assert code == 0
        assert f"{run / LAST}: damaged, and kept as {name}" in printed
        assert (run / "checkpoints" / name / "trainer.json").read_text() == "{"
    assert [path.name[-1] for path in complete_checkpoints(run / "checkpoints")] == ["4", "3", "2", "1"]
    code, printed = cli("checkpoint", "verify", run)
    assert code == 0
    for name in ("damaged-step_00000004", "damaged-step_00000004-2"):
        assert f"{run / 'checkpoints' / name}: set aside as damaged by a resume" in printed


def test_a_best_that_is_set_aside_is_not_the_best(cli, run):
    best = (run / "checkpoints/best").read_text().strip()
    for step in range(int(best[5:]), 5):
        (run / f"checkpoints/step_{step:08d}/trainer.json").write_text("{")
    if best == "step_00000001":
        pytest.fail("the best must not be the first, else nothing is left to go back to")
    assert cli("resume", run)[0] == 0
    assert cli("checkpoint", "verify", run)[0] == 0


def test_a_refused_resume_sets_nothing_aside(cli, run):
    (run / LAST / "trainer.json").write_text("{")
    before = everything(run)
    assert cli("resume", run, "--seed=5")[0] == 2
    assert everything(run) == before


def test_a_checkpoint_that_latest_does_not_name_yet_is_found(whole, run, cli):
    """Killed between the two: what was to become `latest` lies in the folder that the checkpoint was made in."""
    aside = run / "checkpoints/.unfinished-abc"
    aside.mkdir()
    (run / "checkpoints/latest").rename(aside / "latest")
    (run / "checkpoints/latest").write_text("step_00000003\n")
    code, printed = cli("resume", run)
    assert (code, "resuming after 4 of 4 updates" in printed) == (0, True)
    assert not aside.exists()
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []


def test_tools_find_a_checkpoint_that_latest_does_not_name_yet(run, cli, tmp_path):
    aside = run / "checkpoints/.unfinished-abc"
    aside.mkdir()
    (run / "checkpoints/latest").rename(aside / "latest")
    (run / "checkpoints/latest").write_text("step_00000003\n")
    before = everything(run)
    for path in (run, run / "checkpoints/latest"):
        assert "after 4 updates" in cli("checkpoint", "inspect", path)[1]
    assert f"{run}/checkpoints/step_00000004: ok" in cli("checkpoint", "verify", run)[1]
    assert f"B: {run}/checkpoints/step_00000004" in cli("checkpoint", "diff", run / LAST, run)[1]
    exported = [tmp_path / f"{name}.safetensors" for name in ("newest", "fourth")]
    for path, out in zip((run, run / LAST), exported, strict=True):
        assert cli("checkpoint", "export", path, "--out", out)[0] == 0
    assert exported[0].read_bytes() == exported[1].read_bytes()
    assert find_source(InitConfig(path=str(run)), "first").folder == run / LAST / "first"
    assert everything(run) == before


@pytest.mark.parametrize("text", ["step_00000009\n", "../run\n", "x" * 10_000, "\xff"])
def test_what_a_folder_of_leftovers_says_is_checked(run, cli, text):
    aside = run / "checkpoints/.unfinished-abc"
    aside.mkdir()
    (aside / "latest").write_text(text, encoding="latin-1")
    (run / "checkpoints/.unfinished-link").symlink_to(aside)
    assert "after 4 updates" in cli("checkpoint", "inspect", run)[1]


def test_a_checkpoint_that_was_not_finished_is_not_taken_for_one_of_its_name(run, cli):
    aside = run / "checkpoints/.unfinished-abc"
    shutil.copytree(run / LAST, aside / "step_00000004")  # to replace that of an abandoned history
    (aside / "latest").write_text("step_00000004\n")
    (run / "checkpoints/latest").write_text("step_00000002\n")
    assert "after 2 updates" in cli("checkpoint", "inspect", run)[1]
    code, printed = cli("resume", run)
    assert (code, "resuming after 2 of 4 updates" in printed) == (0, True)


def test_checkpoints_of_an_abandoned_history_are_not_taken(run, cli):
    assert cli("resume", run / "checkpoints/step_00000002", "--train.total_steps=2", "--resume.on_change=keep")[0] == 0
    assert "resuming after 2 of" in cli("resume", run)[1]


def test_a_resume_in_another_directory_is_refused(run, cli, tmp_path):
    before = everything(run)
    code, printed = cli("resume", run, f"--train.run_dir={tmp_path / 'other'}")
    assert (code, "train.run_dir: cannot change at a resume" in printed) == (2, True)
    assert everything(run) == before
    assert not (tmp_path / "other").exists()
    assert cli("resume", run, f"--train.run_dir={run}/../run")[0] == 0


@pytest.mark.parametrize("name", ["checkpoints", "latest", "best", "step_00000001", "manifest", "trainer", "damaged"])
def test_a_component_may_have_the_name_of_something_else(cli, tmp_path, name):
    run, optim = tmp_path / "run", {"type": "adamw", "params": {"lr": 1e-2}}
    raw = faults.config(run, total_steps=3, keep_best=None)
    raw["model"] = {"components": {name: {"type": "normed"}}, "component_optims": {name: optim}}
    train(raw, console=Console(file=io.StringIO()))
    folder = run / "checkpoints/step_00000002"
    assert "after 2 updates" in cli("checkpoint", "inspect", folder)[1]
    assert cli("checkpoint", "verify", folder)[1].count(": ok (") == 1
    assert cli("checkpoint", "verify", run)[1].count(": ok (") == 3
    raw["train"]["run_dir"] = str(tmp_path / "new")
    raw["model"]["components"] = {name: {"type": "normed", "init_from": f"{folder}/{name}"}}
    (tmp_path / "c.json").write_text(json.dumps(raw))
    assert cli("plan", tmp_path / "c.json")[0] == 0
    assert "resuming after 2 of 3" in cli("resume", folder)[1]
    shutil.rmtree(folder.with_name("step_00000003"))
    (folder / MANIFEST).unlink()
    assert "manifest.json: is missing" in cli("checkpoint", "verify", folder)[1]


def test_verify_of_a_run_that_prunes_meanwhile_tells_of_no_damage(run, cli, monkeypatch):
    from trainer.checkpoint.tools import inspect as inspection

    verify = inspection.verify

    def slow(folder):
        manifest = verify(folder)
        if folder.name == "step_00000001":
            shutil.rmtree(run / "checkpoints/step_00000002")
            (run / "checkpoints/step_00000003/first/model.safetensors").unlink()
        if folder.name == "step_00000004":
            (run / "checkpoints/best").write_text("step_00000002\n")
        return manifest

    monkeypatch.setattr(inspection, "verify", slow)
    code, printed = cli("checkpoint", "verify", run)
    assert "step_00000002/" not in printed, "it was removed"
    assert "step_00000003/first/model.safetensors: is missing" in printed, "but this is damage"
    assert "checkpoints/best: names no checkpoint that is there" in printed
    assert code == 1


def test_a_linked_checkpoint_is_read_where_it_is(run, tmp_path, cli):
    (run / LAST).rename(tmp_path / "far")
    (run / LAST).symlink_to(tmp_path / "far")
    (tmp_path / "far/loop").symlink_to(tmp_path / "far")
    assert cli("checkpoint", "verify", run)[0] == 0
    assert resume(run, console=Console(file=io.StringIO())).step == 4
