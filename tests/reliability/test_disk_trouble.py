"""If a checkpoint cannot be written, the run reports it, and the one before it is whole."""

import json
import re
import resource
import subprocess

import faults
import pytest
from trouble import FROM, TROUBLES, command

from trainer.checkpoint.directory import complete_checkpoints
from trainer.checkpoint.names import step_of
from trainer.reporting.metrics_file import MetricsFile

NEVER = 1000


@pytest.fixture(scope="module")
def whole(lives, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    lives.whole(run)
    return faults.end_of(run)


@pytest.fixture
def run(tmp_path, request):
    """A run's directory, on a small disk of its own if it is to fill up."""
    trouble = request.node.callspec.params.get("trouble")
    disk = tmp_path / "disk"
    disk.mkdir()
    if trouble == "Full":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"mounting is not possible here: {mounted.stderr.decode().strip()}")
    elif trouble == "ReadOnly":
        bound = subprocess.run(["mount", "--bind", disk, disk], capture_output=True)
        if bound.returncode:
            pytest.skip(f"mounting is not possible here: {bound.stderr.decode().strip()}")
    yield disk / "run"
    for folder in (disk / "run" / "checkpoints", disk):
        subprocess.run(["umount", folder], capture_output=True)


def written(run, **changed):
    path = run.with_name("config.json")
    path.write_text(json.dumps(faults.config(run, **changed)))
    return path


MODES = pytest.mark.parametrize("save_async", [False, True], ids=["sync", "async"])


@MODES
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_run_that_cannot_save_stops_and_can_be_taken_up(lives, whole, run, trouble, save_async):
    code, printed = command(lives, ["train", written(run, save_async=save_async)], run, trouble, NEVER)
    assert code == 1, printed
    assert "Traceback" not in printed
    failed = r"saving the checkpoint after (\d+) updates failed: |metrics\.jsonl: cannot be written: "
    message = re.search(
        rf"error: .*(?:{failed}).*The newest complete checkpoint: (none|after (\d+) updates)\.", printed
    )
    assert message, printed
    if trouble != "Vanished":
        assert (
            int(message[3]) == step_of(complete_checkpoints(run / "checkpoints")[0]) >= FROM - 1
        )  # which was being written when the trouble began
    if trouble in ("Full", "ReadOnly", "Vanished"):  # the others ended with their process
        TROUBLES[trouble]().end(run)
    assert faults.check_what_is_there(run) >= 3
    assert not printed.rstrip().endswith("Training continues.")

    code, printed = command(lives, ["resume", run], run)
    assert code == 0, printed
    assert whole.differences(faults.end_of(run)) == []


@MODES
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_run_told_to_go_on_saves_again_when_it_can(lives, whole, run, trouble, save_async):
    path = written(run, save_async=save_async, on_save_error="continue")
    code, printed = command(lives, ["train", path], run, trouble)
    assert code == 0, printed
    assert "Traceback" not in printed
    assert re.search(r"failed: .*The newest complete checkpoint: .*\. Training continues\.", printed), printed
    assert faults.check_what_is_there(run) >= 3
    end = faults.end_of(run)
    assert (end.files, end.metrics) == (whole.files, whole.metrics)


@MODES
@pytest.mark.parametrize("trouble", ["Full", "Refused"])
def test_a_run_whose_last_checkpoint_cannot_be_written_has_not_succeeded(lives, run, trouble, save_async):
    path = written(run, save_async=save_async, on_save_error="continue")
    code, printed = command(lives, ["train", path], run, trouble, NEVER)
    assert code == 1, printed
    assert "Traceback" not in printed
    assert re.search(rf"error: saving the checkpoint after {faults.STEPS} updates failed: ", printed)
    assert faults.check_what_is_there(run) >= 3


@pytest.mark.parametrize("trouble", ["Full", "ReadOnly"])
def test_a_run_is_not_taken_up_where_nothing_can_be_written(lives, run, trouble):
    code, printed = command(lives, ["train", written(run)], run)
    assert code == 0, printed
    for name in ("latest", "best"):
        (run / "checkpoints" / name).unlink()
    TROUBLES[trouble]().begin(run)
    code, printed = command(lives, ["resume", run], run)
    assert code == 1, printed
    assert "Traceback" not in printed
    assert "cannot be written" in printed
    assert f"The newest complete checkpoint: after {faults.STEPS} updates." in printed
    TROUBLES[trouble]().end(run)


@MODES
@pytest.mark.parametrize("trouble", ["Removed"])
def test_a_folder_of_checkpoints_that_is_removed_is_made_anew(lives, whole, run, trouble, save_async, monkeypatch):
    path = written(run, save_async=save_async, on_save_error="continue")
    code, printed = command(lives, ["train", path], run, trouble)
    assert code == 0, printed
    end = faults.end_of(run)
    assert (end.files, end.metrics) == (whole.files, whole.metrics)


def test_a_line_of_metrics_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write({"step": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            metrics.write({"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"step": 0}\n'
    with path.open("a") as file:
        file.write('{"st')  # as where it could not even be cut off
    metrics.write({"step": 2})
    metrics.close()
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_metrics_that_were_removed_are_begun_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write({"step": 0})
    path.unlink()
    metrics.write({"step": 1})
    assert path.read_text() == '{"step": 1}\n'
    metrics.close()
