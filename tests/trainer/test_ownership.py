"""`train --overwrite` removes what a run wrote, and nothing else, and never elsewhere."""

import io
import json
import os
import shutil

import faults
import pytest
from conftest import files_of
from rich.console import Console

from trainer import ExperimentConfig, ownership, train
from trainer.run_layout import SECTIONS
from trainer.runtime import files

SHORT = {"total_steps": 2, "eval_every": 1, "keep_best": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("owned") / "run"
    train(faults.config(run, **SHORT), console=Console(file=io.StringIO()))
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A run, and a config beside it that trains there."""
    run = shutil.copytree(whole, tmp_path / "run")
    written(run, tmp_path / "c.json")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(whole), str(run)))
    return run


def written(run, path, **changed):
    path.write_text(json.dumps(faults.config(run, **(SHORT | changed))))
    return path


def overwrite(cli, run, *more):
    return cli("train", run.parent / "c.json", "--overwrite", f"--train.run_dir={run}", *more)


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in folder.rglob("*")}


FOREIGN = {
    "a repository": (".git/HEAD", ".git"),
    "notes": ("notes.txt", "notes.txt"),
    "sources": ("src/main.py", "src"),
    "logs of another tool": ("tensorboard/events.1", "tensorboard/events.1"),
    "a file among the checkpoints": ("checkpoints/README.md", "checkpoints/README.md"),
    "a file in a checkpoint": ("checkpoints/step_00000001/result.csv", "checkpoints/step_00000001/result.csv"),
    "a file in a component's folder": (
        "checkpoints/step_00000002/first/mine.pt",
        "checkpoints/step_00000002/first/mine.pt",
    ),
    "a file called as a checkpoint": ("checkpoints/step_00000077", "checkpoints/step_00000077"),
    "a folder called as a picture": ("losses.png/mine", "losses.png"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_run_with_something_else_in_it_is_not_overwritten(cli, run, case, monkeypatch):
    path, named = FOREIGN[case]
    (run / path).parent.mkdir(parents=True, exist_ok=True)
    (run / path).write_text("years of work")
    before = everything(run)
    monkeypatch.setattr("trainer.runs.OfflineTrainer", None)  # it comes to that before any data is read
    code, printed = overwrite(cli, run)
    assert code == 2
    assert f"{run} holds what the run did not write: {named}." in printed
    assert everything(run) == before


def test_what_a_run_writes_and_leaves_is_removed_and_litter_stays(cli, run):
    for name in (
        "metrics.jsonl.bad",
        "losses.png",
        "report.html",
        ".removed-x/step_00000001/f",
        ".innerstep-y/metrics.jsonl",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    shutil.copytree(run / "checkpoints/step_00000001", run / "checkpoints/damaged-step_00000001-2")
    (run / "checkpoints/.unfinished-z").mkdir()
    for litter in (".DS_Store", "checkpoints/Thumbs.db"):
        (run / litter).write_text("x")
    code, printed = overwrite(cli, run, "--train.save_every=2")
    assert code == 0, printed
    assert sorted(path.name for path in run.iterdir()) == [
        ".DS_Store", ".lock", "checkpoints", "config.yaml", "metrics.jsonl", "timeline.jsonl"]  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["Thumbs.db", "latest", "step_00000002"]


OTHERS = {
    "another tool's config": "hello: 1\ntrain: {run_dir: here}\n",
    "a config that a user wrote": json.dumps(faults.config("here")),
    "an empty config": "",
    "a text": "\0",
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_with_a_config_that_no_run_wrote_is_not_a_run(cli, tmp_path, case):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "config.yaml").write_text(OTHERS[case])
    (folder / "metrics.jsonl").write_text('{"loss": 3}\n')
    written(folder, tmp_path / "c.json")
    before = everything(folder)
    for more in ((), ("--overwrite",)):
        code, printed = cli("train", tmp_path / "c.json", *more)
        assert (code, "exists and is not a run" in printed) == (2, True)
    assert everything(folder) == before


def test_a_run_directory_inside_a_file_is_said_to_be_that(cli, tmp_path):
    path = written(tmp_path / "run", tmp_path / "c.json")
    code, printed = cli("train", path, f"--train.run_dir={path}/run")
    assert (code, f"train.run_dir: {path}/run would be in a file. Choose another directory." in printed) == (2, True)


def test_metrics_of_another_tool_beside_a_runs_config_are_not_a_run(cli, run):
    for name in (".lock", "checkpoints"):
        files.remove(run / name)
    (run / "metrics.jsonl").write_text('{"epoch": 1, "loss": 3}\n')
    code, printed = overwrite(cli, run)
    assert (code, "exists and is not a run" in printed) == (2, True)
    assert (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("place", ["working directory", "home directory"])
def test_a_directory_around_where_the_user_is_is_not_emptied(cli, run, place, monkeypatch):
    inside = run / "checkpoints" / "step_00000001"
    monkeypatch.chdir(inside if place == "working directory" else run.parent)
    monkeypatch.setenv("HOME", str(run if place == "home directory" else run.parent / "home"))
    before = everything(run)
    code, printed = overwrite(cli, run)
    assert code == 2
    assert f"{run} is or contains the {place}; nothing is removed there" in printed
    assert everything(run) == before


@pytest.mark.parametrize("original_is_there", [True, False])
def test_the_config_of_a_copied_run_does_not_lead_to_the_original(cli, run, original_is_there):
    copy = shutil.copytree(run, run.with_name("copy"))
    if not original_is_there:
        run.rename(run.with_name("elsewhere"))
    before, copied = everything(run.parent), files_of(copy)
    code, printed = cli("train", copy / "config.yaml", "--overwrite")
    assert code == 2
    assert f"the run in {copy}, and names another directory, {run}" in printed
    assert f"--train.run_dir={copy}" in printed
    assert everything(run.parent) == before
    code, printed = cli("train", copy / "config.yaml", "--overwrite", f"--train.run_dir={copy}")
    assert code == 0, printed
    assert run.exists() == original_is_there
    assert files_of(copy).keys() == copied.keys()


def test_links_are_removed_and_what_they_lead_to_stays(cli, run, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    (run / "checkpoints/step_00000001").rename(far / "step_00000001")
    (run / "checkpoints/step_00000001").symlink_to(far / "step_00000001")
    (far / "metrics").write_bytes((run / "metrics.jsonl").read_bytes())
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(far / "metrics")
    (run / "checkpoints/.unfinished-x").symlink_to(far)
    before = everything(far)
    code, printed = overwrite(cli, run)
    assert code == 0, printed
    assert everything(far) == before
    assert not (run / "checkpoints/step_00000001").is_symlink()


def test_linked_checkpoints_stay_where_they_are(cli, run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "far")
    (run / "checkpoints").symlink_to(tmp_path / "far")
    before = everything(tmp_path / "far")
    assert overwrite(cli, run)[0] == 0
    assert everything(tmp_path / "far") == before


class KilledError(BaseException):
    """In place of a SIGKILL."""


@pytest.mark.parametrize("next_command", ["train", "resume"])
def test_killed_while_it_removes_a_run_the_next_command_goes_through(cli, run, monkeypatch, next_command):
    """A kill before each operation that moves or removes something."""
    for fatal in range(1, 100):
        again = shutil.copytree(run, run.with_name(f"run{fatal}"), symlinks=True)
        count = 0

        def counted(original, fatal=fatal):
            def operation(*arguments, **options):
                nonlocal count
                count += 1
                if count >= fatal:
                    raise KilledError
                return original(*arguments, **options)

            return operation

        with monkeypatch.context() as patched:
            for owner, name in ((ownership.Path, "rename"), (ownership.Path, "unlink"), (files, "remove")):
                patched.setattr(owner, name, counted(getattr(owner, name)))
            patched.setattr("trainer.runs._write_config", counted(lambda run_dir, config: None))
            patched.setattr("trainer.runs.OfflineTrainer.run", lambda self: None)
            try:
                config = json.loads((run.parent / "c.json").read_text())
                config["train"]["run_dir"] = str(again)
                train(config, overwrite=True, console=Console(file=io.StringIO()))
            except KilledError:
                pass
        if count < fatal:
            assert fatal > 6, "it is killed at too few places"
            return
        has_config = (again / "config.yaml").exists()
        if next_command == "resume" and has_config:
            code, printed = cli("resume", again)
        else:
            code, printed = overwrite(cli, run, f"--train.run_dir={again}")
        assert code == 0, (fatal, printed)
        assert not list(again.glob(".removed-*"))
    raise AssertionError("it never ends")


def test_a_run_that_another_process_finished_meanwhile_is_not_trained_over(cli, tmp_path, monkeypatch):
    run, path = tmp_path / "run", tmp_path / "c.json"
    written(run, path)
    from trainer import runs

    slow = runs.OfflineTrainer

    def building(*arguments, **options):
        monkeypatch.setattr(runs, "OfflineTrainer", slow)
        train(faults.config(run, **SHORT) | {"seed": 1}, console=Console(file=io.StringIO()))
        return slow(*arguments, **options)

    monkeypatch.setattr(runs, "OfflineTrainer", building)
    code, printed = cli("train", path)
    assert (code, "holds a run already" in printed) == (2, True)
    assert "seed: 1" in (run / "config.yaml").read_text()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


def test_what_an_earlier_version_left_does_not_hinder_a_start(cli, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.new").write_text("seed: 0\nda")
    (run / ".lock").write_text("123")
    (run / "desktop.ini").write_text("x")
    assert cli("train", written(run, tmp_path / "c.json"))[0] == 0
    assert sorted(os.listdir(run)) == [
        ".lock", "checkpoints", "config.yaml", "desktop.ini", "metrics.jsonl", "timeline.jsonl"]  # fmt: skip


def test_sections_are_the_fields_of_a_config():
    """The command line and the check for a run's config know them without importing the schema."""
    assert list(SECTIONS) == list(ExperimentConfig.model_fields)
