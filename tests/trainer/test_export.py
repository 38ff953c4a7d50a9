"""`innerstep export`: what it refuses, before anything is written, and what it replaces."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, files_of
from rich.console import Console
from sample_demonstrations import policy_config
from sample_exports import head_config

from trainer import train
from trainer.run_lock import locked

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a small policy with checkpoints after its two updates, the first of which is the best."""
    run = tmp_path_factory.mktemp("exported") / "run"
    made = head_config(policy_config, run, "export_plain")
    made["train"].update(save_every=1, eval_every=1, keep_best={"monitor": "val_loss", "mode": "max"})
    train(made, console=QUIET)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy that the test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def refused(cli, tmp_path, *arguments):
    """Return the message of a refusal, which writes nothing."""
    before = files_of(tmp_path)
    folders = {path for path in tmp_path.rglob("*") if path.is_dir()}
    code, printed = cli("export", *arguments)
    assert code == 2, printed
    assert files_of(tmp_path) == before
    assert {path for path in tmp_path.rglob("*") if path.is_dir()} == folders
    assert "Traceback" not in printed
    return printed


def test_a_wrong_format_is_refused_with_the_nearest(run, tmp_path, cli):
    assert "--to: must be torch or lerobot; got 'torhc'; did you mean 'torch'?" in refused(
        cli, tmp_path, run, tmp_path / "out", "--to", "torhc"
    )


def test_a_missing_run_and_a_wrong_checkpoint_are_refused(run, tmp_path, cli):
    out = (tmp_path / "out", "--to", "torch")
    assert "there is no run here" in refused(cli, tmp_path, tmp_path / "rum", *out)
    assert "or RUN --checkpoint PATH" in refused(cli, tmp_path, run / "checkpoints/latest", *out)
    assert "there is no checkpoint" in refused(cli, tmp_path, run, *out, "--checkpoint", run / "checkpoints/step_9")


def test_an_output_that_holds_something_is_refused(run, tmp_path, cli):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert "is there already" in refused(cli, tmp_path, run, tmp_path / "full", "--to", "torch")
    foreign = refused(cli, tmp_path, run, tmp_path / "full", "--to", "torch", "--overwrite")
    assert "holds more than an export: notes.txt" in foreign
    for name in ("file", "link"):
        assert "is not a folder" in refused(cli, tmp_path, run, tmp_path / name, "--to", "torch", "--overwrite")
    assert "there is no directory" in refused(cli, tmp_path, run, tmp_path / "no/out", "--to", "torch")


def test_an_output_in_or_around_the_run_is_refused(run, tmp_path, cli):
    for out in (run, run / "out", run / "checkpoints/../out", tmp_path):
        assert "must not be the run" in refused(cli, tmp_path, run, out, "--to", "torch", "--overwrite")


def test_the_working_directory_is_not_replaced(run, tmp_path, cli, monkeypatch):
    (tmp_path / "empty/in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty/in")
    for out in (".", "..", tmp_path / "empty/in", "../../empty"):
        assert "must not be the working directory" in refused(cli, tmp_path, run, out, "--to", "torch")


def test_a_damaged_checkpoint_is_refused(run, tmp_path, cli):
    weights = run / "checkpoints/step_00000002/net/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "damaged checkpoint" in refused(cli, tmp_path, run, tmp_path / "out", "--to", "torch")
    code, printed = cli("export", run, tmp_path / "out", "--to", "torch", "--checkpoint", "best")
    assert (code, "after 1 update," in (tmp_path / "out/policy.py").read_text()) == (0, True), printed


def test_an_export_is_replaced_by_overwrite_only(run, tmp_path, cli):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there
    assert cli("export", run, out, "--to", "torch", "--checkpoint", "best")[0] == 0
    first = files_of(out)
    assert "is there already" in refused(cli, tmp_path, run, out, "--to", "torch")
    (out / "__pycache__").mkdir()
    assert cli("export", run, out, "--to", "torch", "--overwrite")[0] == 0
    assert files_of(out).keys() == first.keys()
    assert files_of(out) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_failure_to_write_leaves_the_folder_as_it_was(run, tmp_path, cli, monkeypatch):
    out = tmp_path / "out"
    assert cli("export", run, out, "--to", "torch")[0] == 0
    before = files_of(out)
    replace = type(out).replace

    def fail(self, target):
        if target == out and self.name == "out":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(type(out), "replace", fail)
    code, printed = cli("export", run, out, "--to", "torch", "--overwrite")
    assert (code, f"{out}: cannot be written: No space left on device" in printed) == (1, True)
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_run_that_trains_is_exported_and_left_as_it_is(run, tmp_path, cli):
    before = files_of(run)
    with locked(run, print):
        held = {name for name in files_of(run) if name not in before}
        assert cli("export", run, tmp_path / "out", "--to", "torch")[0] == 0
    assert {name: value for name, value in files_of(run).items() if name not in held} == before


def test_another_objective_or_model_is_not_lerobots(run, tmp_path, cli):
    message = refused(cli, tmp_path, run, tmp_path / "out", "--to", "lerobot")
    assert "`model.policy: {type: lerobot.NAME}`" in message
    assert "LeRobot has no class for model.components alone with train.objective.type behaviour_cloning" in message
    assert "`model.policy: {type: lerobot.NAME}`" in message
    assert "--to torch" in message


def test_options_change_what_is_exported_and_are_checked(run, tmp_path, cli):
    assert "--overwirte" in refused(cli, tmp_path, run, tmp_path / "out", "--to", "torch", "--overwirte")
    mode = "--train.objective.params.n_action_steps=9"
    assert "n_action_steps: must be at most 3" in refused(cli, tmp_path, run, tmp_path / "out", "--to", "torch", mode)


@pytest.mark.slow
def test_the_command_works_in_an_empty_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    support = f"{ROOT / 'tests/support'}{os.pathsep}{ROOT}"
    command = [sys.executable, "-m", "trainer", "export", "../run", "act", "--to", "torch"]
    done = subprocess.run(
        command,
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": support},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["act"]
