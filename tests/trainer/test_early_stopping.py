"""`train.early_stopping`: a run ends where its metric stands still, as done, and resumes exactly."""

import io
import json

import pytest
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, MLPS, config, drop

from trainer import ConfigError, resume, train

RULE = {"monitor": "val_score", "mode": "max", "patience": 2}
RISES_TO_THE_THIRD = [0.0, 0.3, 0.5, 0.7, 0.6, 0.7, 0.9]
"""The evaluations after 2, 4 … updates have the scores from the second on: the third of them is the best of five."""
QUIET = Console(quiet=True)


def made(run, scores=RISES_TO_THE_THIRD, rule=None, **changed):
    changed = {"eval_every": 2, "save_every": 3, "early_stopping": {**RULE, **(rule or {})}, **changed}
    found = config(run, MLPS, {"first": ADAMW, "second": ADAMW}, objective="scored", **changed)
    found["plugins"].append("sample_scores")
    found["train"]["objective"]["params"] = {"scores": scores}
    return found


def evaluations(run):
    return [line["step"] for line in metrics_of(run) if line["split"] == "held_out"]


def last(run):
    return (run / "checkpoints/latest").read_text().strip()


def ended(made_config):
    """Train, and return the updates done and what was printed."""
    printed = io.StringIO()
    result = train(made_config, console=Console(file=printed, width=400))
    return result.step, printed.getvalue()


def resumed(target, overrides=None):
    printed = io.StringIO()
    result = resume(target, overrides, console=Console(file=printed, width=400))
    return result.step, printed.getvalue()


def test_the_run_ends_with_a_checkpoint_and_the_reason(cli, tmp_path):
    run, path = tmp_path / "run", tmp_path / "c.json"
    path.write_text(json.dumps(made(run)))
    code, printed = cli("train", path)
    assert code == 0
    lines = " ".join(printed.split())
    assert (
        "train.early_stopping: the run ends after 10 of 12 updates: in 2 evaluations val_score has not risen" in lines
    )
    assert "above the 0.7 after 6 updates. `innerstep resume" in lines
    assert evaluations(run) == [2, 4, 6, 8, 10]
    assert (last(run), metrics_of(run)[-1]["step"]) == ("step_00000010", 10)


CASES = {
    "an equal value does not count": ([0, 1, 1, 1, 2, 2], {"mode": "min"}, 6),
    "the lowest": ([0, 5, 4, 3, 4, 3, 1], {"mode": "min"}, 10),
    "a small improvement does not count": ([0, 1, 1.05, 1.1, 2, 2], {"min_delta": 0.2}, 6),
    "small improvements that add up": ([0, 1, 1.2, 1.4, 1.6, 1.8, 2.0], {"min_delta": 0.3}, 12),
    "NaN does not count": ([0, 1, None, None, 2], {}, 6),
    "a number is better than NaN": ([0, None, 1, 2, 3, 4, 5], {}, 12),
    "only NaN": ([None], {}, 6),
    "more patience": ([0, 1, 1, 1, 1, 1, 1], {"patience": 4}, 10),
    "one evaluation": ([0, 1, 1], {"patience": 1}, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_the_run_ends_after_so_many_evaluations_without_an_improvement(tmp_path, case):
    scores, rule, step = CASES[case]
    scores = scores + scores[-1:]
    assert ended(made(tmp_path / "run", scores, rule))[0] == step


def test_a_run_that_improves_to_its_end_has_no_such_line(tmp_path):
    step, printed = ended(made(tmp_path / "run", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6]))
    assert step == 12
    assert "early_stopping" not in printed


@pytest.mark.parametrize("save_every", [1, 2, 3, None])
def test_a_finished_run_stays_as_it_is_at_a_resume(tmp_path, save_every):
    run = tmp_path / "run"
    ended(made(run, save_every=save_every))
    before = metrics_of(run)
    for _ in range(2):
        step, printed = resumed(run)
        assert step == 10
        assert "--train.early_stopping=null` trains on" in printed
        assert metrics_of(run) == before
        assert last(run) == "step_00000010"


@pytest.mark.parametrize("target", ["", "checkpoints/step_00000010"])
def test_a_finished_run_can_be_trained_on(tmp_path, target):
    run, whole = tmp_path / "run", tmp_path / "whole"
    ended(made(run))
    assert resumed(run / target, {"train.early_stopping": None})[0] == 12
    ended(made(whole, early_stopping=None))
    assert metrics_of(run) == metrics_of(whole)
    folders = [files_of(each / "checkpoints/step_00000012") for each in (run, whole)]
    assert folders[0]["first/optimizer.safetensors"] == folders[1]["first/optimizer.safetensors"]


def test_more_patience_continues_the_count(tmp_path):
    run = tmp_path / "run"
    ended(made(run, [0, 1, 1, 1, 1, 1, 1]))
    assert resumed(run, {"train.early_stopping.patience": 4})[0] == 10


@pytest.mark.parametrize("save_every", [1, 2, 3, 5])
def test_a_resume_ends_where_the_uninterrupted_run_does(tmp_path, save_every):
    """From each checkpoint, those included that were written before the evaluation of their step."""
    run = tmp_path / "run"
    ended(made(run, save_every=save_every))
    lines, content = metrics_of(run), files_of(run / "checkpoints/step_00000010")
    for step in range(save_every, 10, save_every):
        assert resumed(run / f"checkpoints/step_{step:08d}")[0] == 10
        assert metrics_of(run) == lines
        found = files_of(run / "checkpoints/step_00000010")
        assert {name: found[name] for name in found if name.startswith(("first/", "trainer"))} == {
            name: content[name] for name in content if name.startswith(("first/", "trainer"))
        }


def test_a_run_killed_before_its_last_checkpoint_ends_at_the_same_place(tmp_path):
    run = tmp_path / "run"
    ended(made(run, save_every=3))
    lines = metrics_of(run)
    drop(run / "checkpoints/step_00000010")
    (run / "checkpoints/latest").write_text("step_00000009\n")
    assert resumed(run)[0] == 10
    assert metrics_of(run) == lines


def test_another_rule_starts_to_count_again(tmp_path):
    run = tmp_path / "run"
    ended(made(run))
    step, printed = resumed(run, {"train.early_stopping.mode": "min"})
    assert step == 12
    assert "train.early_stopping: min val_score is another rule: counting starts again" in printed


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path):
    run = tmp_path / "run"
    ended(made(run, keep_best={"monitor": "val_score", "mode": "max"}, save_every=None))
    assert (run / "checkpoints/best").read_text().strip() == "step_00000006"
    assert last(run) == "step_00000010"


def test_a_checkpoint_of_a_run_without_the_rule_has_no_count(tmp_path):
    ended(made(tmp_path / "run", early_stopping=None))
    text = (tmp_path / "run/checkpoints/step_00000012/trainer.json").read_text()
    assert "early_stopping" not in json.loads(text)


REFUSED = {
    "no patience": ({"monitor": "val_loss"}, r"train\.early_stopping\.patience: "),
    "patience 0": ({"patience": 0}, r"train\.early_stopping\.patience: "),
    "min_delta below 0": ({"patience": 1, "min_delta": -1}, r"train\.early_stopping\.min_delta: "),
    "a metric that never comes": (
        {"patience": 1, "monitor": "val_scroe"},
        r"train\.early_stopping\.monitor: waits for 'val_scroe', which is never reported; did you mean 'val_score'",
    ),
    "another name": ({"patience": 1, "metric": "val_score"}, r"train\.early_stopping\.metric: .*unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_rule_is_refused(tmp_path, case):
    rule, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        train(made(tmp_path / "run", early_stopping=rule), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_at_the_end_only_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"train\.early_stopping\.monitor: waits for 'val_score', but evaluations come"
    ):
        train(made(tmp_path / "run", eval_every=None), console=QUIET)


def test_what_is_evaluated_at_the_end_only_is_evaluated_when_the_run_ends_early(tmp_path):
    pytest.importorskip("gymnasium", reason="needs the extra `sim`")
    import sample_envs

    rule = {"monitor": "val_loss", "min_delta": 1e9, "patience": 2}
    run = tmp_path / "run"
    found = sample_envs.config(run, {"n_episodes": 2}, eval_every=3, early_stopping=rule)
    assert train(found, console=QUIET).step == 9
    assert [line["step"] for line in metrics_of(run) if "success" in line] == [9]
    before = metrics_of(run)
    assert resume(run, console=QUIET).step == 9
    assert metrics_of(run) == before
