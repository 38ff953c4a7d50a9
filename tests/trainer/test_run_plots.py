"""`innerstep plot RUN`: the panels of runs, as text and as files."""

import re

import pytest
from sample_reports import events, held_out_line, metric_lines, training_line, write_lines, write_run
from sample_runs import MLPS

from trainer.reporting import plot_files
from trainer.reporting.run_panels import RunPanels, read_run, smoothed


def panels_of(*runs, smoothing=0.0):
    return {panel.title: panel for panel in RunPanels([read_run(run, run.name) for run in runs], smoothing).all()}


def test_a_run_has_panels_of_losses_metrics_gradients_and_rates(tmp_path):
    panels = panels_of(write_run(tmp_path / "run"))
    names = ["Losses", "Loss mse", "Loss kl", "accuracy"]
    assert list(panels) == [*names, "Gradient norm of each component", "Learning rate of each component"]
    train, held_out = panels["Losses"].series
    assert (train.label, held_out.label) == ("training batch", "held out")
    assert train.points[:2] == [(0, 2.0), (1, 1.0)]
    assert [at for at, _ in held_out.points] == [10, 20, 30, 40]
    for title in ("Gradient norm of each component", "Learning rate of each component"):
        assert [one.label for one in panels[title].series] == sorted(MLPS)


def test_resumes_and_the_best_checkpoint_are_marked(tmp_path):
    panel = panels_of(write_run(tmp_path / "run", timeline=events(resumed_after=[20, 30])))["Losses"]
    assert [(mark.label, mark.at) for mark in panel.marks] == [
        ("resumed", 20), ("resumed", 30), ("best checkpoint", 20)]  # fmt: skip


def test_runs_share_their_axes_and_have_their_own_colours(tmp_path):
    runs = [write_run(tmp_path / name, timeline=events(resumed_after=[10])) for name in ("one", "other")]
    panels = panels_of(*runs)
    lines = panels["Losses"].series
    assert [one.label for one in lines] == [
        f"{run}: {split}" for run in ("one", "other") for split in ("training batch", "held out")]  # fmt: skip
    assert [one.colour for one in lines] == [0, 0, 1, 1]
    rates = panels["Learning rate of each component"].series
    assert [(one.colour, one.style) for one in rates] == [(0, "-"), (1, "-"), (0, "--"), (1, "--")]
    assert {mark.label for mark in panels["Losses"].marks} >= {"resumed, one", "resumed, other"}


def test_smoothing_keeps_a_constant_and_shows_the_values_behind():
    assert smoothed([(at, 3.0) for at in range(5)], 0.9) == [(at, pytest.approx(3.0)) for at in range(5)]
    assert smoothed([(0, 1.0), (1, 4.0)], 0.5) == [(0, 1.0), (1, pytest.approx((0.25 + 2.0) / 0.75))]


def test_training_values_are_smoothed_and_rates_and_evaluations_are_not(tmp_path):
    run = write_run(tmp_path / "run")
    raw, calm = panels_of(run), panels_of(run, smoothing=0.8)
    train, held_out = calm["Losses"].series
    assert train.faint == raw["Losses"].series[0].points != train.points
    assert held_out == raw["Losses"].series[1]
    assert [one.faint for one in calm["Learning rate of each component"].series] == [(), ()]


def test_episodes_and_losses_below_0_have_linear_axes(tmp_path):
    lines = [training_line(step, loss=1.0 - step) for step in range(20)]
    lines += [held_out_line(20, 1.0, success=0.5, **{"return": -3.0})]
    panels = panels_of(write_run(tmp_path / "run", lines))
    assert panels["Losses"].log is None
    assert {"Episodes in which the task was solved", "Sum of rewards of an episode"} <= panels.keys()


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_file_is_written(cli, tmp_path, ending, magic):
    runs = [write_run(tmp_path / name, timeline=events(resumed_after=[10])) for name in ("one", "other")]
    out = tmp_path / f"runs.{ending}"
    code, printed = cli("plot", *runs, "--out", out, "--smooth", "0.5")
    assert (code, printed) == (0, f"drew {out}\n")
    assert out.read_bytes().startswith(magic)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_text_fits_the_terminal(cli, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, printed = cli("plot", write_run(tmp_path / "run", timeline=events(resumed_after=[20])))
    assert code == 0
    charts = [line for line in printed.splitlines() if re.search("[┤└•]", line)]
    assert max(map(len, charts)) <= columns
    assert "• training batch" in printed
    assert "resumed after update 20; best checkpoint after update 20" in printed


def test_values_that_are_not_finite_are_left_out_and_named(cli, tmp_path):
    lines = [training_line(step, loss=float("nan") if step == 3 else 1.0) for step in range(10)]
    code, printed = cli("plot", write_run(tmp_path / "run", lines))
    assert code == 0
    assert "loss (train) is NaN or infinite in 1 lines, first at update 3" in printed


def test_a_run_of_a_hundred_thousand_lines_is_drawn_with_bounded_lines(tmp_path):
    lines = (training_line(step) for step in range(100_000))
    panels = panels_of(write_run(tmp_path / "run", lines))
    for panel in panels.values():
        for one in panel.series:
            assert len(one.points) <= 1002
            assert (one.points[0][0], one.points[-1][0]) == (0, 99_999)
    assert panels["Losses"].series[0].band


def test_metrics_alone_are_enough(cli, tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [*metric_lines(), '{"split": "tra'])
    assert cli("plot", tmp_path)[0] == 0


MISTAKES = {
    "no run": (["{folder}"], "there is no run here"),
    "twice": (["{run}", "{run}"], "given twice"),
    "an override": (["{run}", "--train.total_steps=3"], "a run is drawn as it is"),
    "smoothing": (["{run}", "--smooth=1"], "--smooth: must be at least 0 and less than 1; got 1"),
    "smoothing a schedule": (["cosine", "--smooth=0.5"], "--smooth: is for runs"),
    "a run and a key": (["{run}", "cosine"], "cosine: there is no run here"),
    "an ending": (["{run}", "--out=x.gif"], "--out: must end in .png, .svg or .pdf"),
    "nothing yet": (["{empty}"], "has no lines yet"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused(cli, tmp_path, case):
    arguments, message = MISTAKES[case]
    places = {"folder": tmp_path, "run": write_run(tmp_path / "run"), "empty": write_run(tmp_path / "empty", [])}
    code, printed = cli("plot", *(one.format(**places) for one in arguments))
    assert (code, message in printed) == (2, True), printed


def test_matplotlib_is_asked_for_by_name_before_anything_is_read(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(plot_files, "find_spec", lambda name: None)
    code, printed = cli("plot", write_run(tmp_path / "run"), "--out", tmp_path / "x.png")
    assert (code, "matplotlib" in printed) == (2, True)
