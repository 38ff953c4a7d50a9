"""`innerstep report`: the plain values of a page, without a browser."""

import json
import re
import shutil
import zipfile

import pytest
from conftest import ROOT
from sample_reports import (
    HOSTILE,
    events,
    held_out_line,
    metric_lines,
    training_line,
    values_in,
    write_lines,
    write_run,
)

from trainer.report_page.report import write_report
from trainer.reporting.metric_series import Series


def reported(run, out=None):
    """Return the text of the page on a run, and its values."""
    write_report([str(run)], out)
    page = (out or run / "report.html").read_text()
    return page, values_in(page)


def series_of(run, split, name):
    (found,) = [one for one in run["series"] if (one["split"], one["name"]) == (split, name)]
    return found


def test_a_report_has_the_series_the_best_evaluation_and_the_checkpoints_of_a_run(tmp_path):
    _, values = reported(write_run(tmp_path / "run", timeline=events()))
    (run,) = values["runs"]
    assert (run["name"], run["status"], run["done"], run["total"]) == ("run", "done", 40, 40)
    assert series_of(run, "train", "lr/second")["values"][:3] == [0.001, 0.002, 0.003]
    assert series_of(run, "held_out", "loss")["steps"] == [10, 20, 30, 40]
    assert run["best"] == {"monitor": "val_loss", "mode": "min", "value": 0.2, "step": 20}
    marks = [(one["step"], one["bytes"], one["latest"], one["best"]) for one in run["checkpoints"]]
    assert marks == [(20, 2040, False, True), (40, 2080, True, False)]
    assert run["plan"] == "component  params\nfirst  4"


def test_the_time_of_each_phase_is_summed_over_all_processes_of_a_run(tmp_path):
    _, values = reported(write_run(tmp_path / "run", timeline=events(resumed_after=[20])))
    (run,) = values["runs"]
    assert [(one["began"], one["reached"], one["end"]) for one in run["processes"]] == [(0, 20, None), (20, 40, "done")]
    assert run["phases"]["seconds"] == {
        "updates": 30.0, "waiting for data": 10.0, "start": 10.0, "checkpoints": 4.0, "evaluation": 6.0}  # fmt: skip


def test_a_killed_process_lasts_until_its_last_line_of_metrics(tmp_path):
    timeline = events(ended=None)[:1]
    _, values = reported(write_run(tmp_path / "run", timeline=timeline))
    (process,) = values["runs"][0]["processes"]
    assert (process["reached"], process["seconds"]) == (40, 9.0), "5 s to start, and 40 updates at 10 a second"


def test_a_run_without_a_timeline_is_shown_with_an_estimated_time(tmp_path):
    _, values = reported(write_run(tmp_path / "run"))
    (run,) = values["runs"]
    assert run["phases"] == {"seconds": {"updates, evaluations and checkpoints": 4.0}, "known": False}
    assert any("timeline.jsonl" in note for note in run["notes"])


def test_fields_that_differ_from_the_defaults_are_listed_with_the_default(tmp_path):
    _, values = reported(write_run(tmp_path / "run", timeline=events(), grad_clip_norm=2.5))
    changed = {path: (value, default) for path, value, default in values["runs"][0]["changed"]}
    assert changed["train.grad_clip_norm"] == ("2.5", "null")
    assert changed["model.component_optims.first.params.lr"] == ("0.01", "0.001")
    assert changed["model.components.first.params.hidden"] == ("[5]", "null")
    assert changed["data.type"] == ("noise", "—")
    assert "train.accumulate" not in changed
    assert "model.component_optims.first.params.betas" not in changed


def test_configs_of_several_runs_are_compared_field_by_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / f"{name}/run", accumulate=number) for name, number in (("a", 1), ("b", 3))]
    write_report([str(run) for run in runs], None)
    values = values_in((tmp_path / "report.html").read_text())
    assert values["differences"] == [["train.accumulate", ["1", "3"]]]
    assert [run["name"] for run in values["runs"]] == ["a/run", "b/run"]


def test_names_and_values_of_a_run_cannot_become_markup(tmp_path):
    lines = [training_line(step, **{f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0}) for step in range(3)]
    timeline = [{**event, "plan": HOSTILE, "message": HOSTILE, "device": HOSTILE} for event in events()]
    page, values = reported(write_run(tmp_path / "run'\"<b>&amp;ü", lines, timeline))
    assert values["runs"][0]["plan"] == HOSTILE
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert "<img" not in page
    assert "<b>" not in page
    assert "<title>run&#x27;&quot;&lt;b&gt;&amp;amp;ü · innerstep report</title>" in page


def test_invisible_characters_and_lone_surrogates_are_written_as_escapes(tmp_path):
    lines = [training_line(0, **{"a\u202eb\x1b": 1.0, "lone\ud800": 2.0})]
    page, values = reported(write_run(tmp_path / "run", lines, []))
    names = {one["name"] for one in values["runs"][0]["series"]}
    assert {"a\\u202eb\\x1b", "lone\\ud800"} <= names
    assert "\u202e" not in page


def test_a_page_allows_its_own_style_and_script_and_nothing_else(tmp_path):
    page, _ = reported(write_run(tmp_path / "run"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http:" not in policy
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)


def test_values_that_are_not_finite_are_counted_and_kept_out_of_the_lines(tmp_path):
    odd = {"loss": None, "nonfinite": {"loss": "nan"}}
    lines = [training_line(0), training_line(1, **odd), training_line(2), training_line(3, loss=10**400)]
    _, values = reported(write_run(tmp_path / "run", lines, []))
    loss = series_of(values["runs"][0], "train", "loss")
    assert loss["steps"] == [0, 2]
    assert (loss["nonfinite"], loss["nonfiniteCount"]) == ([[1, "nan"], [3, "inf"]], 2)


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    lines = [
        training_line(0),
        "{",
        "[]",
        '{"split": "train", "step": "x"}',
        training_line(1),
        {**training_line(2), "step": -1},
    ]
    run = write_run(tmp_path / "run", lines, ["{", {"event": 3}, {"event": "checkpoint", "step": 1}, "\0"])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "st')  # the run is writing it
    _, values = reported(run)
    (found,) = values["runs"]
    assert series_of(found, "train", "loss")["steps"] == [0, 1]
    assert "metrics.jsonl: 4 lines not written by a run, left out." in found["notes"]
    assert found["processes"] == []


def test_values_of_other_types_are_ignored(tmp_path):
    strange = {"text": "x", "flag": True, "list": [1], "nothing": None, "inner": {"a": 1}}
    _, values = reported(write_run(tmp_path / "run", [training_line(0, **strange)], []))
    assert not strange.keys() & {one["name"] for one in values["runs"][0]["series"]}


def test_a_damaged_config_or_checkpoint_is_noted_and_the_rest_is_shown(tmp_path):
    run = write_run(tmp_path / "run", timeline=events())
    (run / "config.yaml").write_text("a: [")
    (run / "checkpoints/step_00000040/manifest.json").write_text("{")
    _, values = reported(run)
    (found,) = values["runs"]
    assert [one["step"] for one in found["checkpoints"]] == [20]
    assert any("config.yaml" in note for note in found["notes"])
    assert any("step_00000040" in note for note in found["notes"])
    assert found["total"] == 40


def test_a_run_that_just_began_has_a_page(tmp_path):
    run = write_run(tmp_path / "run", [], events()[:1], checkpoints=())
    (run / "metrics.jsonl").unlink()
    _, values = reported(run)
    (found,) = values["runs"]
    assert (found["status"], found["done"], found["series"], found["best"]) == ("open", None, [], None)


@pytest.mark.parametrize("most", [4, 7, 100])
def test_a_thinned_series_keeps_its_extremes_its_mean_and_its_end(most):
    series, values = Series(most), [float((7 * step) % 101) for step in range(1000)]
    values[500], values[501] = 5000.0, -5000.0
    for step, value in enumerate(values):
        series.add(step, value)
    found = series.values()
    assert len(found["steps"]) <= most
    assert (max(found["highs"]), min(found["lows"])) == (5000.0, -5000.0)
    assert (found["steps"][-1], found["thinned"]) == (999, 1000)
    assert series.mean == pytest.approx(sum(values) / 1000)


def test_a_long_run_with_many_metrics_has_a_small_page(tmp_path):
    names = [f"metric_{number}" for number in range(60)]
    lines = [training_line(step, **dict.fromkeys(names, 1.23456789 * step + 0.1)) for step in range(3000)]
    page, values = reported(write_run(tmp_path / "run", lines, []))
    assert len(page.encode()) < 5e6
    assert max(series_of(values["runs"][0], "train", "metric_7")["highs"]) == pytest.approx(
        1.23457 * 2999 + 0.1, rel=1e-4
    )


def test_a_picture_is_in_the_page_and_a_large_video_is_a_link(tmp_path):
    run = write_run(tmp_path / "run", timeline=events())
    (run / "rollouts.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (run / "videos").mkdir()
    (run / "videos/episode_1.mp4").write_bytes(bytes(4) + b"ftypisom" + bytes(900_000))
    (run / "videos/episode_2.mp4").write_bytes(b"<svg onload=alert(1)>")
    (run / "videos/other.txt").write_text("x")
    _, values = reported(run, tmp_path / "page.html")
    found = {one["name"]: (one["link"], (one["content"] or "")[:21]) for one in values["runs"][0]["pictures"]}
    assert found == {
        "rollouts.png": ("run/rollouts.png", "data:image/png;base64"),
        "videos/episode_1.mp4": ("run/videos/episode_1.mp4", ""),
        "videos/episode_2.mp4": ("run/videos/episode_2.mp4", ""),
    }


def test_no_module_that_a_run_names_is_imported(tmp_path):
    run = write_run(tmp_path / "run")
    config = json.loads((run / "config.yaml").read_text())
    config["plugins"] = ["a_module_that_is_not_there"]
    config["model"]["components"]["first"]["type"] = "a_module_that_is_not_there.Class"
    (run / "config.yaml").write_text(json.dumps(config))
    _, values = reported(run)
    assert ["model.components.first.type", "a_module_that_is_not_there.Class", "—"] in values["runs"][0]["changed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing: there is no run here"),
        (["run", "run/../run"], "run/../run is given twice"),
        (["run", "--out", "run/config.yaml"], "--out: must end in .html"),
        (["run", "--out", "missing/page.html"], "--out: missing/page.html cannot be written"),
        (["hf://someone/run"], "a run on the hub has no metrics"),
        (["run"] * 25, "at most 24 runs"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_in_the_command_is_explained(cli, tmp_path, monkeypatch, arguments, message):
    write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    code, printed = cli("report", *arguments)
    assert code == 2
    assert message in printed
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_replaces_an_earlier_page_and_names_it(cli, tmp_path, monkeypatch):
    write_run(tmp_path / "run", timeline=events())
    monkeypatch.chdir(tmp_path)
    assert cli("report", "run")[0] == 0
    write_lines(tmp_path / "run/metrics.jsonl", [*metric_lines(), held_out_line(41, 0.1)])
    code, printed = cli("report", "run")
    assert (code, printed.startswith("wrote run/report.html: 1 run, ")) == (0, True)
    assert values_in((tmp_path / "run/report.html").read_text())["runs"][0]["done"] == 41


def test_the_wheel_has_the_files_of_the_page(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    wheel = next(hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = {path.name for path in (ROOT / "trainer/report_page").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert names
    with zipfile.ZipFile(wheel) as archive:
        assert {f"trainer/report_page/{name}" for name in names} <= set(archive.namelist())
    shutil.rmtree(tmp_path)


def test_each_part_of_the_page_can_be_read_in_one_sitting():
    for path in (ROOT / "trainer/report_page").glob("*.*"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_best_evaluation_is_that_of_the_best_checkpoint(tmp_path):
    _, values = reported(write_run(tmp_path / "run", checkpoints=(10, 20), best=10, keep_best={}))
    best = values["runs"][0]["best"]
    assert (best["monitor"], best["mode"], best["value"], best["step"]) == ("val_loss", "min", pytest.approx(0.3), 10)


def test_a_section_that_is_off_by_default_is_listed_when_it_is_on(tmp_path):
    _, values = reported(write_run(tmp_path / "run", keep_best={}))
    assert ["train.keep_best.monitor", "val_loss", "—"] in values["runs"][0]["changed"]
    assert not any(path.startswith("distributed") for path, _, _ in values["runs"][0]["changed"])
