"""timeline.jsonl: a run's record of its processes, on which nothing depends."""

import io
import os

import pytest
from rich.console import Console
from sample_runs import ADAMW, WARMUP, config, faulty, two

from trainer import NonFiniteError, resume, train
from trainer.reporting import timeline
from trainer.reporting.timeline import Timeline, read_timeline

OPTIMS = {"first": ADAMW, "second": ADAMW}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


def brief(run):
    return [(line["event"], line["step"]) for line in read_timeline(run / "timeline.jsonl")]


def test_a_run_writes_its_start_its_checkpoints_its_evaluations_and_its_end(tmp_path, quiet):
    run = tmp_path / "run"
    train(config(run, two(), OPTIMS, save_every=6, eval_every=12), console=quiet)
    assert brief(run) == [
        ("started", 0), ("checkpoint", 6), ("checkpoint", 12), ("evaluation", 12), ("pictures", 12), ("ended", 12)
    ]  # fmt: skip
    first, *_, last = read_timeline(run / "timeline.jsonl")
    assert (first["total_steps"], first["processes"], first["device"]) == (12, 1, "cpu")
    assert first["plan"].startswith("component")
    assert (last["reason"], "message" in last) == ("done", False)


def test_a_run_that_fails_writes_why_and_its_resume_writes_another_start(tmp_path, quiet):
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError):
        train(faulty(run), console=quiet)
    *_, last = read_timeline(run / "timeline.jsonl")
    assert (last["event"], last["step"], last["reason"]) == ("ended", 6, "NonFiniteError")
    assert "the loss is nan" in last["message"]
    with pytest.raises(NonFiniteError):
        resume(run, console=quiet)
    assert brief(run).count(("started", 6)) + brief(run).count(("started", 4)) == 1


def test_a_run_that_cannot_write_its_timeline_trains_the_same(tmp_path, quiet, monkeypatch):
    made = {"save_every": 6}
    train(config(tmp_path / "whole", two(), {"first": WARMUP, "second": ADAMW}, **made), console=quiet)

    def refuse(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(timeline, "open_to_append", refuse)
    train(config(tmp_path / "run", two(), {"first": WARMUP, "second": ADAMW}, **made), console=quiet)
    assert not (tmp_path / "run/timeline.jsonl").exists()
    weights = [tmp_path / name / "checkpoints/step_00000012/first/model.safetensors" for name in ("whole", "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_seconds_of_an_event_are_without_those_of_events_inside_it(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timeline.time, "monotonic", lambda: now[0])
    written = Timeline(tmp_path / "t.jsonl")
    with written.timing("evaluation", 3):
        now[0] += 4
        with written.timing("checkpoint", 3):
            now[0] += 2.5
        now[0] += 1
    lines = [(line["event"], line["seconds"], line["elapsed"]) for line in read_timeline(tmp_path / "t.jsonl")]
    assert lines == [("checkpoint", 2.5, 6.5), ("evaluation", 5.0, 7.5)]


def test_lines_that_no_run_wrote_are_left_out_and_links_are_refused(tmp_path):
    path = tmp_path / "timeline.jsonl"
    path.write_text(
        '{"event": "ended", "step": 3}\n{"event": 3, "step": 1}\n[]\n{"event": "x", "step": -1}\nx\n{"event": "st'
    )
    assert list(read_timeline(path)) == [{"event": "ended", "step": 3}]
    assert list(read_timeline(tmp_path / "none")) == []
    target = tmp_path / "victim"
    target.write_text("precious")
    os.symlink(target, tmp_path / "link")
    with Timeline(tmp_path / "link").timing("checkpoint", 1):
        pass
    assert target.read_text() == "precious"
