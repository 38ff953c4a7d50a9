"""Metrics sinks: `train.log` names the places that each line of metrics goes to."""

import json

import pytest
import yaml
from rich.console import Console
from sample_runs import ADAMW, MLPS, config
from sample_sinks import MemorySink

from trainer import ConfigError, SaveError, UserCodeError, resume, train


@pytest.fixture
def quiet():
    return Console(quiet=True)


@pytest.fixture
def events():
    MemorySink.events.clear()
    return MemorySink.events


def made(run, *sinks, **changed):
    changed = {"eval_every": 6, "save_every": 6, "log": ["jsonl", *sinks], **changed}
    found = config(run, MLPS, {"first": ADAMW, "second": ADAMW}, **changed)
    found["plugins"].append("sample_sinks")
    return found


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def written(events):
    return [value for event, value in events if event == "line"]


def test_a_sink_of_a_plugin_gets_each_line(tmp_path, quiet, events):
    train(made(tmp_path / "run", "memory"), console=quiet)
    assert (events[0], events[-1]) == (("opened", 0), ("closed", None))
    assert len(written(events)) == 14
    assert written(events) == lines_of(tmp_path / "run")


def test_a_sink_gets_the_lines_after_a_resume(tmp_path, quiet, events):
    run = tmp_path / "run"
    train(made(run, "memory"), console=quiet)
    events.clear()
    resume(run / "checkpoints/step_00000006", console=quiet)
    assert events[0] == ("opened", 6)
    again = [("train", step) for step in range(6, 12)] + [("held_out", 12)]
    assert [(line["split"], line["step"]) for line in written(events)] == again, "the evaluation after 6 is written"
    assert written(events) == lines_of(run)[7:]


def test_sinks_may_change_in_a_run(tmp_path, quiet, events):
    run = tmp_path / "run"
    train(made(run), console=quiet)
    resume(run / "checkpoints/step_00000006", {"train.log": ["jsonl", "memory"]}, console=quiet)
    assert written(events) == lines_of(run)[7:]


SINK = """class Numbers:
    def __init__(self, run_dir, step):
        self.file = (run_dir / "numbers.txt").open("a")

    def write(self, line):
        print(line["step"], file=self.file)

    def close(self):
        self.file.close()
"""


def test_a_sink_by_dotted_path_is_found_beside_the_config(tmp_path, quiet):
    (tmp_path / "sink_beside.py").write_text(SINK)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(made(tmp_path / "run", "sink_beside.Numbers")))
    train(path, console=quiet)
    written_numbers = (tmp_path / "run/numbers.txt").read_text().split()
    assert written_numbers == [str(line["step"]) for line in lines_of(tmp_path / "run")]
    path.write_text(yaml.safe_dump(made(tmp_path / "other", "sink_beside.Letters")))
    with pytest.raises(ConfigError, match=r"train\.log\.1: .*sink_beside has no Letters"):
        train(path, console=quiet)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (["jsonl", "memroy"], r"train\.log\.1: unknown metrics sink 'memroy'; did you mean 'memory'"),
        (["memory"], r"train\.log: must contain jsonl, .*: \[jsonl, memory\]"),
        ([], r"train\.log: must contain jsonl, .*: \[jsonl\]"),
        (["jsonl", "memory", "memory"], r"train\.log: must name each place once"),
        (["jsonl", "JSONL"], r"train\.log\.1: must be another place than 'jsonl'; got 'JSONL'"),
        (["jsonl", "memory", "sample_sinks.MemorySink"], r"train\.log\.2: must be another place than 'memory'; got"),
    ],
)
def test_a_wrong_list_of_sinks_is_rejected(tmp_path, quiet, log, message):
    with pytest.raises(ConfigError, match=message):
        train(made(tmp_path / "run", log=log), console=quiet)
    assert not (tmp_path / "run").exists()


def test_a_sink_that_cannot_write_stops_the_run_with_a_checkpoint(tmp_path, quiet, events):
    with pytest.raises(SaveError, match="the dashboard: cannot be written: No space left"):
        train(made(tmp_path / "run", "full"), console=quiet)
    assert max(line["step"] for line in lines_of(tmp_path / "run")) == 5, "the file comes first"


def test_a_sink_that_cannot_write_is_reported_if_the_run_may_continue(tmp_path, capsys, events):
    train(made(tmp_path / "run", "full", on_save_error="continue"), console=Console(width=200))
    assert "the dashboard: cannot be written: No space left." in capsys.readouterr().out
    assert [line for line in lines_of(tmp_path / "run") if line["step"] != 5] == written(events)


def test_an_error_in_a_sink_is_the_users(tmp_path, quiet, events):
    message = r"train\.log: wrong fails: ZeroDivisionError: no such panel \(sample_sinks"
    with pytest.raises(UserCodeError, match=message):
        train(made(tmp_path / "run", "wrong"), console=quiet)
    assert events[-1] == ("closed", None)


def test_a_sink_that_cannot_be_closed_is_reported_after_the_others_are_closed(tmp_path, quiet, events):
    with pytest.raises(SaveError, match="the dashboard: cannot be written"):
        train(made(tmp_path / "run", "memory", "unclosable"), console=quiet)
    assert events[-1] == ("closed", None)


def test_a_sink_that_cannot_be_opened_ends_the_run_after_the_others_are_closed(tmp_path, quiet, events):
    with pytest.raises(SaveError, match="the dashboard: cannot be written: Connection refused"):
        train(made(tmp_path / "run", "memory", "unopenable"), console=quiet)
    assert events == [("opened", 0), ("closed", None)]


def test_a_sink_that_cannot_be_opened_is_left_out_if_the_run_may_continue(tmp_path, capsys, events):
    train(made(tmp_path / "run", "unopenable", "memory", on_save_error="continue"), console=Console(width=200))
    assert "the dashboard: cannot be written: Connection refused." in capsys.readouterr().out
    assert written(events) == lines_of(tmp_path / "run")
