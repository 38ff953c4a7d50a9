"""Progress and summary: the lines of a run in terminals of several widths and on a pipe."""

import os
import re
import shlex
import signal

import pytest
import sample_runs
import torch
from sample_runs import ADAMW, MLPS, config
from screens import drawn, pipe, terminal, text_on

from optimizer import Horizon
from trainer import resume, train
from trainer.reporting.progress_bar import RunProgress
from trainer.reporting.progress_view import ProgressView, component_lines
from trainer.reporting.run_status import RunStatus
from trainer.reporting.run_summary import next_commands
from trainer.reporting.tables import fit_lines
from trainer.runtime.signals import StoppedBySignal

TEN = [f"part_{number}" for number in range(9)] + ["critic_with_a_rather_long_name"]
LINE = {
    "split": "train",
    "step": 0,
    "epoch": 0,
    "loss": 0.75,
    "loss/actor": 0.5,
    "loss/critic": 0.25,
    "accuracy": 0.8125,
    **{f"lr/{name}": 1.25e-3 for name in TEN},
    **{f"grad_norm/{name}": 12.5 for name in TEN},
    "updates_per_second": 4.0,
    "data_wait": 0.125,
}


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def status(clock, done=0):
    """Return the status of a run of 400 updates, with 5 updates and 36 samples an epoch."""
    return RunStatus(done, Horizon(400, 5), 36, clock)


def progress(console, clock):
    return RunProgress(console, status(clock), torch.device("cpu"))


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_display_has_whole_names_and_numbers_at_each_width(clock, width):
    shown = status(clock)
    shown.take_line(LINE)
    clock.now += 20
    shown.take_line({**LINE, "step": 80, "loss": float("nan")})
    shown.take_evaluation(80, {"loss": 0.5, "loss/x": 0.5, "accuracy": 0.9}, {})
    shown.saved = 75, clock.now - 12
    lines = drawn(ProgressView(shown, lambda: 123_400_000), width)
    assert max(map(len, lines)) <= width
    for entry in ("81/400", "20%", "0:00:20", "ETA 0:01:19", "loss nan", "loss/actor 0.5000", "loss/critic 0.2500"):
        assert any(entry in line for line in lines), (entry, lines)
    for entry in ("4.0 updates/s", "28.8 samples/s", "data wait 12%", "16.2 of 80.0", "123.4 MB", *TEN):
        assert any(entry in line for line in lines), (entry, lines)
    for entry in ("accuracy 0.9000", "after 80 updates", "after 75 updates", "0:00:12 ago", "1.25e-03", "12.5"):
        assert any(entry in line for line in lines), (entry, lines)
    assert any(line.startswith("best        loss 0.5000") for line in lines)


def test_components_are_in_columns_and_share_lines_where_they_fit():
    values = {name: {"lr": 1e-3, "grad_norm": 2.0, "skipped": 0} for name in ("one", "three", "seven")}
    assert [*component_lines(values, 86)] == [
        "             lr  grad norm                 lr  grad norm                 lr  grad norm",
        "one    1.00e-03     2.0000    three  1.00e-03     2.0000    seven  1.00e-03     2.0000",
    ]
    assert [*component_lines(values, 85)] == [
        "             lr  grad norm                 lr  grad norm",
        "one    1.00e-03     2.0000    three  1.00e-03     2.0000",
        "seven  1.00e-03     2.0000",
    ]
    assert [*component_lines(values, 30)] == [
        "             lr  grad norm",
        "one    1.00e-03     2.0000",
        "three  1.00e-03     2.0000",
        "seven  1.00e-03     2.0000",
    ]
    values["three"]["skipped"] = 4
    assert [line.split()[-1] for line in component_lines(values, 40)] == ["skipped", "0", "4", "0"]


def test_a_pipe_gets_a_line_less_and_less_often(clock):
    console = pipe()
    with progress(console, clock) as shown:
        for step in range(0, 400, 4):
            shown.show({**LINE, "step": step})
            clock.now += 1
    lines = console.file.getvalue().splitlines()
    assert [int(re.match(r"update (\d+)/400 ", line)[1]) for line in lines] == [1, 5, 13, 29, 61, 125, 245, 365]
    assert lines[1] == (
        "update 5/400  epoch 1.0/80.0  loss 0.7500  loss/actor 0.5000  loss/critic 0.2500  accuracy 0.8125"
        "  4.0 updates/s  28.8 samples/s  elapsed 0:00:01  ETA 0:01:38"
    )


def test_a_pipe_gets_the_last_line_before_a_checkpoint(clock):
    console = pipe()
    with progress(console, clock) as shown:
        shown.show(LINE)
        for step in (4, 8):
            shown.show({**LINE, "step": step})
        shown.saved(9)
        shown.saved(10)
    lines = console.file.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "update 1/400",
        "update 9/400",
        "saved after 9 updates",
        "saved after 10 updates",
    ]


def test_the_time_left_is_without_a_slow_first_update(clock):
    shown = status(clock)
    assert shown.remaining() is None
    clock.now += 60
    shown.take_line(LINE)
    assert shown.remaining() == pytest.approx(399 * 60)
    clock.now += 10
    shown.take_line({**LINE, "step": 100})
    assert shown.remaining() == pytest.approx(29.9)
    clock.now += 9.9
    assert shown.remaining() == pytest.approx(20.0)
    clock.now += 100
    assert shown.remaining() == 0


def test_the_best_evaluation_is_by_the_rule_or_the_lowest_loss(clock):
    shown = status(clock)
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.75), (40, float("nan"))):
        shown.take_evaluation(step, {"loss": loss, "accuracy": step / 100}, {})
    assert shown.best == ("loss", 0.25, 20)
    shown.take_evaluation(50, {"loss": 0.3}, {"monitor": "val_accuracy", "mode": "max", "value": 0.4, "step": 40})
    assert shown.best == ("val_accuracy", 0.4, 40)
    episodes = status(clock)
    for step, success in ((10, 0.5), (20, 0.75), (30, 0.25)):
        episodes.take_evaluation(step, {"success": success, "return": 1.0}, {})
    assert episodes.best == ("success", 0.75, 20)


RUN = {"save_every": 4, "eval_every": 6, "keep_best": {"monitor": "val_loss"}}


def run_config(run_dir, **changed):
    return config(run_dir, MLPS, {"first": ADAMW, "second": ADAMW}, **{**RUN, **changed})


def summary(console):
    """Return the lines of the summary on a console, from its first, by name; further commands are left out."""
    lines = text_on(console).splitlines()
    first = max(index for index, line in enumerate(lines) if re.match("done: |stopped by ", line))
    return lines[first], dict(
        re.match(r"(\w[\w ]*?)  +(.*)", line).groups() for line in lines[first + 1 :] if line[0] != " "
    )


def test_a_run_ends_with_a_summary(tmp_path):
    console, run = pipe(), tmp_path / "a run's (one); ls"
    result = train(run_config(run), console=console)
    end, values = summary(console)
    assert end == "done: 12 updates"
    assert re.fullmatch(r"0:00:\d\d, [\d.]+ updates/s", values["time"])
    assert f"loss {result.metrics['loss']:.4f}, size " in values["evaluation"]
    assert re.fullmatch(r"val_loss [\d.]+, after (6|12) updates", values["best"])
    assert values["run"] == str(run)
    assert values["checkpoint"] == str(run / "checkpoints/step_00000012")
    assert values["best one"].startswith(str(run / "checkpoints/step_000000"))


def test_the_commands_that_come_next_are_commands(cli, tmp_path):
    run = tmp_path / "a run's (one); ls"
    console = pipe()
    train(run_config(run), console=console)
    next_ones = [line[12:] for line in text_on(console).splitlines() if line[12:].startswith("innerstep ")]
    assert next_ones
    for command in next_ones:
        code, printed = cli(*shlex.split(command)[1:])
        assert code == 0, printed
    asked = sample_runs.load_config(run_config(run))
    with_episodes = asked.train.model_copy(update={"evaluation": object()})
    first = next_commands(asked.model_copy(update={"train": with_episodes}), resumes=False)[0]
    assert shlex.split(first) == ["innerstep", "evaluate", str(run)]
    assert cli("evaluate", "--help")[0] == 0


def test_a_summary_on_a_narrow_terminal_keeps_paths_whole(tmp_path):
    console = terminal(40)
    train(run_config(tmp_path / "run"), console=console)
    assert f"run         {tmp_path / 'run'}\n" in text_on(console)


def test_a_run_that_a_signal_stops_has_a_summary_and_names_the_way_on(tmp_path, monkeypatch):
    show, console = RunProgress.show, pipe()

    def interrupted(self, line):
        show(self, line)
        if line["step"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunProgress, "show", interrupted)
    with pytest.raises(StoppedBySignal, match=re.escape(f"`innerstep resume {tmp_path / 'run'}` continues there")):
        train(run_config(tmp_path / "run"), console=console)
    end, values = summary(console)
    assert end == "stopped by SIGTERM: 5 of 12 updates"
    assert values["checkpoint"] == str(tmp_path / "run/checkpoints/step_00000005")
    assert values["next"] == f"innerstep resume {tmp_path / 'run'}"


def test_the_summary_of_a_resume_knows_the_best_before_it(tmp_path):
    train(run_config(tmp_path / "run"), console=pipe())
    console = pipe()
    resume(tmp_path / "run", console=console)
    end, values = summary(console)
    assert end == "done: 12 updates"
    assert re.fullmatch(r"val_loss [\d.]+, after (6|12) updates", values["best"])
    assert values["checkpoint"] == str(tmp_path / "run/checkpoints/step_00000012")
    assert "training" not in values


def test_a_run_is_shown_live_on_a_terminal_and_by_lines_on_a_pipe(tmp_path):
    live, lines = terminal(80), pipe()
    train(run_config(tmp_path / "live"), console=live)
    train(run_config(tmp_path / "lines", save_async=True), console=lines)
    assert "saved after" not in text_on(live)
    assert "━" in live.file.getvalue()
    printed = lines.file.getvalue()
    assert [int(step) for step in re.findall(r"(?m)^saved after (\d+) updates$", printed)] == [4, 6, 8, 12]
    assert re.search(r"(?m)^update 1/12  epoch 0.2/2.4  loss \d", printed)
    assert "\x1b" not in printed


def test_forced_colours_on_a_pipe_move_no_cursor(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = pipe()
    train(run_config(tmp_path / "run"), console=console)
    assert re.search(r"(?m)^update 1/12 ", console.file.getvalue())
    assert set(re.findall(r"\x1b\[[0-9;?]*(.)", console.file.getvalue())) <= {"m"}


@pytest.mark.parametrize("width", [20, 40, 60])
def test_no_number_of_a_message_is_broken(width):
    text = "after 2900 updates, held out: loss 0.0334  first_action_error 0.0257"
    lines = fit_lines(text, width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == text.split()
    assert fit_lines(text, None) == text
