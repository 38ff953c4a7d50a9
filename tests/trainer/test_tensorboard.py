"""The sink `tensorboard`: its event files are read back by TensorBoard."""

import json
import math
import sys

import pytest
from conftest import files_of, metrics_of, needs, start
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import ConfigError, SaveError, resume, train
from trainer.ownership import run_to_overwrite
from trainer.reporting.dashboard_lines import grouped_values

LIBRARY_WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*module was a pure python.*")
pytestmark = [needs("tensorboard"), LIBRARY_WARNS]
QUIET = Console(quiet=True)


def made(run, *sinks, **changed):
    changed = {"eval_every": 4, "save_every": 4, "log": ["jsonl", "tensorboard", *sinks], **changed}
    found = config(run, MLPS, {"first": ADAMW, "second": ADAMW}, **changed)
    found["plugins"].append("sample_sinks")
    return found


def accumulated(run):
    """Return the points that TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    return shown


def points(run):
    """Return the points that TensorBoard shows, by tag."""
    shown = accumulated(run)
    return {tag: [(point.step, point.value) for point in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def raw_points(run):
    """Return the points in the event files, by tag, whatever TensorBoard makes of them."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def written(run):
    """Return the points of metrics.jsonl, by tag."""
    found = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for tag, value in grouped_values(line).items():
            found.setdefault(tag, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    return found


def check_points(run):
    expected = written(run)
    assert [step for step, _ in expected["train/loss"]] == list(range(12))
    assert [step for step, _ in expected["held_out/loss"]] == [4, 8, 12]
    assert points(run) == expected
    assert raw_points(run) == expected


def test_tensorboard_shows_each_line_in_groups(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    check_points(run)
    tags = points(run).keys()
    groups = {"train/loss", "held_out/loss", "lr/first", "grad_norm/second", "speed/data_wait", "train/epoch"}
    assert groups <= tags
    assert {tag.split("/")[0] for tag in tags} == {"train", "held_out", "lr", "grad_norm", "speed"}
    text = accumulated(run).Tensors("config.yaml")[0].tensor_proto.string_val[0].decode()
    assert text.replace("    ", "", 1).replace("\n    ", "\n") == (run / "config.yaml").read_text().rstrip("\n")


def test_a_run_is_the_same_with_the_sink(tmp_path):
    train(made(tmp_path / "run"), console=QUIET)
    train(made(tmp_path / "plain", log=["jsonl"]), console=QUIET)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "plain")
    last = "checkpoints/step_00000012"
    weights = [files_of(tmp_path / name / last)["first/model.safetensors"] for name in ("run", "plain")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("checkpoints", [[8], [4], [8, 4, 4], [12], [4, 12]])
def test_a_resume_has_neither_a_gap_nor_a_double_point(tmp_path, checkpoints):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    for step in checkpoints:
        resume(run / f"checkpoints/step_{step:08d}", console=QUIET)
        check_points(run)


def test_an_open_reader_forgets_what_is_trained_again(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    shown = accumulated(run)
    resume(run / "checkpoints/step_00000008", console=QUIET)
    shown.Reload()
    assert [point.step for point in shown.Scalars("train/loss")] == list(range(12))
    assert [point.step for point in shown.Scalars("held_out/loss")] == [4, 8, 12]


def test_a_killed_run_loses_no_line(tmp_path):
    run = tmp_path / "run"
    path = tmp_path / "c.json"
    path.write_text(json.dumps(made(run, "killing")))
    killed = start("train", path)
    killed.communicate(timeout=100)
    assert killed.returncode == -9
    assert [step for step, _ in raw_points(run)["train/loss"]] == list(range(10))
    with sorted((run / "tensorboard").iterdir())[-1].open("ab") as file:
        file.write(b"\x30\x00\x00")  # half a record
    resume(run, console=QUIET)
    check_points(run)


def test_a_damaged_event_file_is_repaired_from_the_metrics(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    (file,) = (run / "tensorboard").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b"\xff" * 64
    file.write_bytes(content)
    resume(run, console=QUIET)
    check_points(run)


def test_lines_of_before_the_sink_was_added_are_shown_too(tmp_path):
    run = tmp_path / "run"
    train(made(run, log=["jsonl"]), console=QUIET)
    resume(run / "checkpoints/step_00000008", {"train.log": ["jsonl", "tensorboard"]}, console=QUIET)
    check_points(run)


def test_a_value_that_is_not_finite_is_a_point():
    line = {"split": "train", "step": 3, "loss": math.nan, "lr/head": 1, "skipped/head": 2, "data_wait": 0.5}
    values = grouped_values(line)
    assert math.isnan(values.pop("train/loss"))
    assert values == {"lr/head": 1.0, "skipped/head": 2.0, "speed/data_wait": 0.5}


def test_a_metric_of_an_evaluation_has_another_name_than_any_of_training():
    names = ("loss", "loss/squared", "lr/first", "grad_norm/first", "success", "data_wait", "train/loss")
    lines = [{"split": split, "step": 1, **dict.fromkeys(names, 0.0)} for split in ("train", "held_out")]
    shown = [name for line in lines for name in grouped_values(line)]
    assert len(set(shown)) == 2 * len(names)


def test_a_missing_package_is_asked_for_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = r"train\.log\.0: tensorboard needs tensorboard, .*pip install 'innerstep\[tensorboard\]'"
    with pytest.raises(ConfigError, match=message):
        train(made(tmp_path / "run", log=["tensorboard", "jsonl"]), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_ends_the_run_or_is_reported(tmp_path, capsys):
    run = tmp_path / "run"
    train(made(run, log=["jsonl"]), console=QUIET)
    (run / "tensorboard").write_text("")
    changed = {"train.log": ["jsonl", "tensorboard"]}
    with pytest.raises(SaveError, match=r"tensorboard.*: cannot be written: Not a directory"):
        resume(run / "checkpoints/step_00000008", changed, console=QUIET)
    changed["train.on_save_error"] = "continue"
    resume(run / "checkpoints/step_00000008", changed, console=Console(width=300))
    assert "cannot be written: Not a directory." in capsys.readouterr().out
    assert len(metrics_of(run)) == 15


def test_an_overwritten_run_leaves_no_event_file(tmp_path):
    run = tmp_path / "run"
    train(made(run), console=QUIET)
    assert run_to_overwrite(run, overwrite=True)
    (run / "tensorboard/events.out.tfevents.1700000000.host.1.0").write_text("of another tool")
    with pytest.raises(ConfigError, match=r"did not write: tensorboard/events\.out\.tfevents\.1700000000\.host\.1\.0"):
        train(made(run), overwrite=True, console=QUIET)
    (run / "tensorboard/events.out.tfevents.1700000000.host.1.0").unlink()
    train(made(run, log=["jsonl"]), overwrite=True, console=QUIET)
    assert not (run / "tensorboard").exists()
