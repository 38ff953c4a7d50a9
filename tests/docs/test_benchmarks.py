"""The page of benchmarks is computed from the results of several runs."""

import json
import sys

import pytest
from conftest import ROOT

MODULES = (
    "bandwidth",
    "first_update",
    "import_time",
    "measuring",
    "names",
    "results",
    "sections",
    "step_tables",
    "tensors",
    "top_table",
)


@pytest.fixture(scope="module")
def benchmarks():
    """Make the modules of benchmarks/ importable, and forget them afterwards."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in MODULES:
        sys.modules.pop(name, None)


def steps(fused, ours, bandwidth=100.0):
    """Return the results of the AdamW steps of a run."""
    times = {"torch AdamW(fused=True)": fused, "`adamw_warmup_cosine_decay`": ours, "optimi.AdamW": 4.0}
    bytes_each = dict.fromkeys(times, 28)
    rates = {"a copy": bandwidth / 2, "a product in place": bandwidth}
    bandwidths = {"together": rates, "alone": {name: rate / 2 for name, rate in rates.items()}}
    return {"together": times, "alone": times, "bandwidths": bandwidths, "bytes_each": bytes_each, "left_out": {}}


def row_of(runs, shown):
    from top_table import rows

    return next((cells, met) for cells, met in rows(runs, 10) if cells[0] == shown)


@pytest.mark.usefixtures("benchmarks")
def test_the_limit_is_the_bytes_by_the_highest_bandwidth():
    from results import limit, of_limit

    run = {"AdamW": steps(3.0, 3.5)}
    assert limit(run, "AdamW", "optimi.AdamW", 10) == pytest.approx(28 * 10 / 100)
    assert of_limit(run, "AdamW", "together", "`adamw_warmup_cosine_decay`", 10) == pytest.approx(3.5 / 2.8)
    assert of_limit(run, "AdamW", "alone", "`adamw_warmup_cosine_decay`", 10) == pytest.approx(3.5 / 5.6)
    assert limit(run, "AdamW", "of nobody", 10) is None


@pytest.mark.usefixtures("benchmarks")
def test_the_worst_ratio_is_of_one_run_and_not_of_medians():
    from results import medians, ratio, worst

    runs = [{"AdamW": steps(2.0, 1.0)}, {"AdamW": steps(1.0, 0.9)}, {"AdamW": steps(4.0, 3.0)}]
    path, ours, fused = "AdamW/together", "`adamw_warmup_cosine_decay`", "torch AdamW(fused=True)"
    assert worst(runs, lambda run: ratio(run, path, ours, fused)) == pytest.approx(0.9)
    assert medians(runs, path)[ours] == 1.0
    assert worst([{}], lambda run: ratio(run, path, ours, fused)) is None


@pytest.mark.usefixtures("benchmarks")
def test_a_goal_is_met_only_if_the_worst_run_meets_it():
    good, bad = {"AdamW": steps(3.0, 2.9)}, {"AdamW": steps(3.0, 3.1)}
    cells, met = row_of([good, good], "AdamW")
    assert met == [True, True]
    assert cells[2:4] == ["0.97 / 0.97 torch's fused", "1"]
    assert "0.72 optimi" in cells[5] or "0.73 optimi" in cells[5]
    cells, met = row_of([good, bad], "AdamW")
    assert met == [False, True]
    assert cells[2] == "**1.03** / **1.03** torch's fused"


@pytest.mark.usefixtures("benchmarks")
def test_a_step_far_from_its_limit_misses_that_goal():
    cells, met = row_of([{"AdamW": steps(4.0, 3.7)}], "AdamW")
    assert met == [True, False]
    assert cells[4] == "**1.32** / 0.66"


@pytest.mark.usefixtures("benchmarks")
def test_what_was_not_measured_is_shown_as_such_and_judged_by_nobody():
    from top_table import top_table

    shown, total, met = top_table([{"AdamW": steps(3.0, 2.9)}], 10)
    assert (total, met) == (2, 2)
    assert shown.count("\n") == 12
    assert "| A save | not measured | not measured torch.save | 1 |" in shown


@pytest.mark.usefixtures("benchmarks")
def test_sections_without_results_are_measured_in_each_run_or_once(tmp_path):
    from sections import ONCE, REPEATED, missing

    assert len(missing(tmp_path)) == 3 * len(REPEATED) + len(ONCE)
    (tmp_path / "2.json").write_text(json.dumps({name: {} for name in REPEATED}))
    (tmp_path / "1.json").write_text(json.dumps({"memory": {}}))
    left = missing(tmp_path)
    assert len(left) == 2 * len(REPEATED) + len(ONCE) - 1
    assert {path.name for path, _ in left} == {"1.json", "3.json"}


@pytest.mark.usefixtures("benchmarks")
def test_a_contender_that_did_not_run_has_a_line_with_the_reason():
    from step_tables import left_out, step_table

    run = {"AdamW": {**steps(3.0, 2.9), "left_out": {"torchao": "ModuleNotFoundError: No module named 'torchao'"}}}
    assert left_out([run, {}], "AdamW").strip() == (
        "- torchao did not run: `ModuleNotFoundError: No module named 'torchao'`"
    )
    assert "| optimi.AdamW | 4000.0 | 1.33 | 4000.0 | 1.33 | 2800.0 | 1.43 |" in step_table([run], "AdamW", 10)
