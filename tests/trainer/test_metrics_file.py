"""metrics.jsonl: lines that a resume keeps, drops and moves, and numbers that JSON does not have."""

import json
import math
import os
import tracemalloc

import pytest
from sample_runs import ADAMW, config, two

from optimizer.state.atomic_files import flush
from trainer.reporting import run_plots as pictures
from trainer.reporting.metrics_file import (
    MetricsFile,
    evaluation_text,
    looks_like_metrics,
    read_metrics,
    written_evaluation,
)


def line(step, split="train", **values):
    return json.dumps({"split": split, "step": step, **values}) + "\n"


LINES = [line(0), line(1), line(2, "held_out"), line(2), line(3)]
"""Of which a resume after 2 updates keeps the first three."""


def resumed(tmp_path, content, step=2):
    """Return what is left of a file, and what was moved, and how many lines that were."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    moved = MetricsFile(path).keep_before(step)
    bad = tmp_path / "metrics.jsonl.bad"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["metrics.jsonl"] + ["metrics.jsonl.bad"] * bool(moved)
    return path.read_text(), bad.read_bytes() if moved else b"", moved


def test_what_came_later_is_dropped(tmp_path):
    assert resumed(tmp_path, "".join(LINES)) == ("".join(LINES[:3]), b"", 0)


@pytest.mark.parametrize("cut", ['{"split": "train", "step": 3', "{", "\0" * 300, "a note"])
def test_a_last_line_cut_in_half_is_dropped(tmp_path, cut):
    assert resumed(tmp_path, "".join(LINES[:3]) + cut) == ("".join(LINES[:3]), b"", 0)


@pytest.mark.parametrize("place", [0, 1, 3, 5])
@pytest.mark.parametrize(
    "odd",
    ["\n", "# a note of mine\n", "\0" * 50 + LINES[1], '{"split": "t{"split": "train"}\n', "[1]\n", '{"step": 1}\n'],
)
def test_lines_that_are_not_ours_are_kept_elsewhere_and_no_other_is_lost(tmp_path, odd, place):
    content = "".join(LINES[:place]) + odd + "".join(LINES[place:])
    assert resumed(tmp_path, content) == ("".join(LINES[:3]), odd.encode(), 1)


def test_bytes_that_are_not_text_are_kept_elsewhere(tmp_path):
    assert resumed(tmp_path, b"\xff\xfe\n" + LINES[0].encode()) == (LINES[0], b"\xff\xfe\n", 1)


def test_lines_out_of_order_are_kept_and_dropped_one_by_one(tmp_path):
    assert resumed(tmp_path, line(3) + line(0) + line(7) + line(1))[0] == line(0) + line(1)


def test_a_last_line_that_lacks_its_end_alone_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert resumed(tmp_path, "".join(LINES[:2])[:-1]) == ("".join(LINES[:2]), b"", 0)
    metrics = MetricsFile(path)
    metrics.write({"split": "train", "step": 2})
    metrics.close()
    assert [each["step"] for each in read_metrics(path)] == [0, 1, 2]


def test_more_is_added_to_what_was_moved_before(tmp_path):
    resumed(tmp_path, "first\n" + LINES[0])
    assert resumed(tmp_path, "second\n" + LINES[0])[1] == b"first\nsecond\n"


@pytest.mark.parametrize("odd", ["", "a note\n"])
def test_a_resume_needs_little_memory(tmp_path, odd):
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        file.write(odd)
        file.writelines(line(step, text="x" * 200) for step in range(6_000))
    tracemalloc.start()
    MetricsFile(path).keep_before(5_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(list(read_metrics(path))) == 5_000
    assert peak < 400_000, "the file has 1.5 MB"


def test_links_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for use in (lambda: metrics.keep_before(2), lambda: metrics.write({"step": 1})):
        with pytest.raises(OSError, match="link"):
            use()
    assert victim.read_text() == "precious\n"
    assert not (tmp_path / "metrics.jsonl.bad").exists()


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_finite_is_null_and_named_and_read_back_as_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    values = {"loss": math.inf, "lr/x": 0.5, "accuracy": math.nan, "reward": -math.inf}
    metrics.write({"split": "train", "step": 0, **values})
    metrics.write({"split": "train", "step": 1, "loss": 2.0})
    metrics.close()
    first, second = map(strict, path.read_text().splitlines())
    assert first["nonfinite"] == {"loss": "inf", "accuracy": "nan", "reward": "-inf"}
    assert {first[name] for name in first["nonfinite"]} == {None}
    assert "nonfinite" not in second
    assert repr(next(read_metrics(path))) == repr({"split": "train", "step": 0, **values})


@pytest.mark.parametrize(
    "text",
    ['"loss": NaN', '"loss": null, "nonfinite": ["loss"]', '"loss": null, "nonfinite": ["loss", "gone", 7]'],
)
def test_values_that_earlier_versions_wrote_as_not_finite_are_read(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"split": "train", "step": 0, {text}}}\n')
    (read,) = read_metrics(path)
    assert repr(read) == repr({"split": "train", "step": 0, "loss": math.nan})


def test_words_that_are_not_known_change_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"split": "train", "step": 0, "loss": null, "nonfinite": {"loss": "huge", "gone": "inf"}}\n')
    assert list(read_metrics(path)) == [{"split": "train", "step": 0, "loss": None}]


def test_all_that_a_run_writes_is_json(tmp_path, monkeypatch):
    """The best loss is infinite, as is an option of an optimizer; both come back as they were."""
    import io

    from rich.console import Console

    from trainer import resume, train
    from trainer.evaluations import Evaluations
    from trainer.runtime.files import read_json

    losses = {2: math.inf, 4: math.nan, 6: math.inf}
    monkeypatch.setattr(Evaluations, "on_held_out", lambda self: {"loss": losses[self._run.step]})
    optim = {"type": "adamw", "params": {"lr": 1e-2, "schedule": {"type": "plateau", "patience": 9}}}
    often = {"total_steps": 6, "eval_every": 2, "save_every": 2, "keep_best": {"mode": "max"}}
    raw = config(tmp_path / "run", two(), {"first": optim, "second": ADAMW}, **often)
    train(raw, console=Console(file=io.StringIO()))
    for path in tmp_path.rglob("*.json"):
        strict(path.read_text())
    for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        strict(text)
    folder = tmp_path / "run/checkpoints/step_00000004"
    assert read_json(folder / "trainer.json")["best"]["value"] == math.inf
    resume(folder, console=Console(file=io.StringIO()))
    assert (tmp_path / "run/checkpoints/best").read_text() == "step_00000002\n"


NUMBERS = ["0", "-1", "1.5", "1e-5", "2E+3", "1e999", "9" * 30, "-0.0", "null", "NaN"]
NO_NUMBERS = ["01", "+1", ".5", "1.", "1e", "--1", "0x1", "1_000", "", "9" * 5_000, "1 1"]


@pytest.mark.parametrize(("numbers", "is_ours"), [(NUMBERS, True), (NO_NUMBERS, False)])
def test_a_line_is_ours_if_it_is_json(tmp_path, numbers, is_ours):
    lines = [f'{{"split": "train", "step": 1, "loss": {number}, "lr/x": 0.1}}\n' for number in numbers]
    assert resumed(tmp_path, "".join(lines), 2)[2] == (0 if is_ours else len(lines))


@pytest.mark.parametrize(
    "written",
    ['{"split": "train", "step": 0, "step": 7}\n', '{"step": 7, "split": "train"}\n', line(7, café=1.0)],
)
def test_the_step_of_a_line_is_what_json_says(tmp_path, written):
    assert resumed(tmp_path, LINES[0] + written, 2) == (LINES[0], b"", 0)


def test_an_evaluation_is_found_where_it_was_written_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert written_evaluation(path, 4) is None
    odd = "a note\n" + line(4, loss=9.0) + line(3, "held_out", loss=8.0)
    path.write_text(line(4, "held_out", loss=2.0) + odd + line(4, "held_out", epoch=1, loss=1.5) + '{"split": "held')
    assert written_evaluation(path, 4) == {"loss": 1.5}
    assert written_evaluation(path, 5) is None


@pytest.mark.parametrize("count", [1, 7, 20_000, 45_003])
def test_pictures_show_the_first_and_last_point_and_not_millions(tmp_path, monkeypatch, count):
    panels = []
    monkeypatch.setattr(pictures, "save_figure", lambda drawn, path: panels.extend(drawn))
    values = [line(step, loss=1.0 + step, **{"lr/x": 0.5 * step}) for step in range(count)]
    (tmp_path / "metrics.jsonl").write_text("".join(values) + line(count, "held_out", loss=9.0))
    pictures.draw_pictures(tmp_path)
    lrs, losses = panels
    assert [series.label for panel in panels for series in panel.series] == ["x", "training batch", "held out"]
    for points, last in ((lrs.series[0].points, 0.5 * (count - 1)), (losses.series[0].points, float(count))):
        assert points[0][0] == 0
        assert points[-1] == (count - 1, last)
        assert min(count, 500) <= len(points) == len(set(points)) <= 1002
    assert losses.series[1].points == [(count, 9.0)]


USES = {
    "keep_before": lambda path: MetricsFile(path).keep_before(2),
    "write": lambda path: MetricsFile(path).write({"step": 1}),
    "read_metrics": lambda path: list(read_metrics(path)),
    "written_evaluation": lambda path: written_evaluation(path, 2),
    "looks_like_metrics": looks_like_metrics,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_not_a_file_is_not_waited_for(tmp_path, use, make):
    path = tmp_path / "metrics.jsonl"
    make(path)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        USES[use](path)


@pytest.mark.parametrize("use", [use for use in USES if use != "write"])
def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path, use):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES))
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="must have at most"):
        USES[use](path)


def test_a_file_that_is_flushed_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Invalid"):
        flush(tmp_path / "pipe")


@pytest.mark.parametrize("length", [90, 99, 100, 101, 198, 199, 200, 201, 1000])
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_line_too_long_for_the_memory_is_kept_elsewhere(tmp_path, monkeypatch, length, place):
    monkeypatch.setattr("trainer.reporting.metrics_file._MAX_LINE_BYTES", 100)
    assert max(map(len, LINES)) < 80, "these are not too long"
    odd = "x" * (length - 1) + "\n"
    assert resumed(tmp_path, "".join(LINES[:place]) + odd + "".join(LINES[place:])) == (
        "".join(LINES[:3]),
        odd.encode(),
        1,
    )


@pytest.mark.parametrize("length", [99, 100, 101, 250])
def test_a_last_line_too_long_for_the_memory_is_dropped(tmp_path, monkeypatch, length):
    monkeypatch.setattr("trainer.reporting.metrics_file._MAX_LINE_BYTES", 100)
    assert resumed(tmp_path, "".join(LINES[:3]) + "x" * length) == ("".join(LINES[:3]), b"", 0)


def test_small_losses_of_an_evaluation_are_not_shown_as_0():
    assert evaluation_text(200, {"loss": 6.63e-7, "accuracy": 0.5}).endswith("loss 6.63e-07  accuracy 0.5000")
