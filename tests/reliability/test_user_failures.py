"""Code of the user that fails in the middle of a run: the message, the saved state, and the way to continue."""

import io
import json
import multiprocessing
import signal
from pathlib import Path

import pytest
import sample_faulty_parts  # noqa: F401
import trouble
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, MLPS, PLATEAU, KilledError, config, faulty, two

from optimizer.config.messages import counted
from trainer import ConfigError, NonFiniteError, UserCodeError, resume, train
from trainer.checkpoint.contents import OBJECTIVE_STATE, read_flat_values, read_progress


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=1000)


def told_by(made, console):
    with pytest.raises(UserCodeError) as raised:
        train(made, console=console)
    assert multiprocessing.active_children() == []
    return str(raised.value)


FAILURES = {
    "explode": "RuntimeError: the simulator has no licence (sample_faulty_parts.py:",
    "leave": "SystemExit: 7 (sample_faulty_parts.py:",
    "panic": "PanicError: index out of bounds (sample_faulty_parts.py:",
    "exhausted": "RuntimeError: StopIteration (sample_faulty_parts.py:",
    "mute": "MuteError: without a message, as its own fails: AttributeError (sample_faulty_parts.py:",
    "mute_panic": "MutePanicError: without a message, as its own fails: PanicError (sample_faulty_parts.py:",
    "unreadable": "UnreadableError: /teacher/model.safetensors: Input/output error (sample_faulty_parts.py:",
    "rows": "ValueError: a loss must be a scalar; got the shape [3]. Take its mean over the batch. (sample_faulty_par",
    "detached": "ValueError: the loss has no gradient: it was detached",
}


@pytest.mark.parametrize("save_async", [False, True])
@pytest.mark.parametrize("way", FAILURES)
def test_a_failure_names_update_and_line_and_saves(tmp_path, quiet, way, save_async):
    run = tmp_path / "run"
    told = told_by(faulty(run, way, save_async=save_async), quiet)
    assert told.startswith(f"update 6 (epoch 1, batch 1 of 5, all counted from 0): {FAILURES[way]}")
    assert told.endswith(f"\nThe newest finite checkpoint: after 6 updates. `innerstep resume {run}` continues there.")
    train(faulty(tmp_path / "whole", at=(), save_every=6), console=quiet)
    failed, whole = (files_of(folder / "checkpoints/step_00000006") for folder in (run, tmp_path / "whole"))
    tensors = [name for name in whole if name.endswith(".safetensors")]
    assert {name: failed[name] for name in tensors} == {name: whole[name] for name in tensors}


@pytest.mark.parametrize("others_from", [0, 3, 99])
@pytest.mark.parametrize(
    "changed",
    [{}, {"accumulate": 2}, {"save_async": True, "precision": "bf16"}, {"on_nonfinite": "continue"}],
    ids=str,
)
def test_an_update_that_failed_draws_the_same_numbers_when_it_is_made_again(tmp_path, quiet, others_from, changed):
    """Of every generator; from where the run draws: Python's and numpy's are followed once they have moved."""
    for at, name in (([9], "failed"), ([], "whole")):
        often = {"save_every": None if at else 9, **changed}
        made = faulty(tmp_path / name, "rows", at, objective="drawing_faulty", **often)
        made["model"]["components"] = two()
        made["train"]["objective"]["params"]["others_from"] = others_from
        if at:
            assert told_by(made, quiet).startswith("update 9 (")
        else:
            train(made, console=quiet)
    failed, whole = (tmp_path / name / "checkpoints/step_00000009" for name in ("failed", "whole"))
    assert read_progress(failed).values["rng"] == read_progress(whole).values["rng"]
    tensors = [name for name in files_of(whole) if name.endswith(".safetensors")]
    assert "rng.safetensors" in tensors
    for name in tensors:
        assert (failed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("rule", ["stop", "skip", "continue"])
def test_an_update_that_failed_leaves_all_buffers_as_they_were_before_it(tmp_path, quiet, rule):
    for at, name in (([9], "failed"), ([], "whole")):
        optims = {"first": ADAMW, "second": ADAMW}
        often = {"save_every": None if at else 9, "on_nonfinite": rule}
        made = faulty(tmp_path / name, "explode", at, optims=optims, **often)
        made["model"]["components"] = {"first": {"type": "observant"}, "second": {"type": "observant"}}
        if at:
            assert told_by(made, quiet).startswith("update 9 (")
        else:
            train(made, console=quiet)
    for name in ("first/model.safetensors", "second/model.safetensors"):
        failed, whole = (tmp_path / run / "checkpoints/step_00000009" / name for run in ("failed", "whole"))
        assert failed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("missing", "KeyError: 'y' (sample_parts.py:"),
        ("list", "a batch must be a dict of tensors with one sample a row; got list"),
        ("text", "a batch must be a dict of tensors; its 'note' is a str"),
        ("empty", "a batch of 4 samples must have one row a sample in each tensor; its 'x' is of 0 rows"),
        ("gone", "FileNotFoundError: episode_000042.parquet (sample_faulty_parts.py:"),
        ("panic", "PanicError: index out of bounds (sample_faulty_parts.py:"),
    ],
)
def test_a_bad_batch_is_named_and_nothing_is_lost(tmp_path, quiet, way, what, workers):
    run = tmp_path / "run"
    made = config(run, two(), {"first": ADAMW, "second": ADAMW}, data={"type": "spoilt_noise", "batch_size": 4})
    made["seed"] = 1
    made["plugins"].append("sample_faulty_parts")
    made["data"] |= {"params": {"way": way, "sample": 3}, "workers": workers}
    told = told_by(made, quiet)
    update = int(told.removeprefix("update ").partition(" ")[0])
    assert 0 < update < 12, "the sample must not come first"
    if workers and way in ("list", "text", "gone", "panic"):
        what = {"list": "cannot be made: ", "text": "cannot be made: TypeError: a batch is a dict"}.get(way, what)
    assert what in told
    assert f"after {counted(update, 'update')}. `innerstep resume" in told
    assert (run / "checkpoints" / f"step_{update:08d}").is_dir()


@pytest.mark.parametrize("way", ["explode", "leave", "panic", "exhausted", "mute"])
@pytest.mark.parametrize("where", ["evaluation", "metric"])
def test_the_state_is_saved_before_an_evaluation_or_a_metric_fails(tmp_path, quiet, where, way):
    run = tmp_path / "run"
    told = told_by(faulty(run, way, at=[7], where=where, eval_every=8, save_every=None), quiet)
    what = {"evaluation": "the evaluation fails", "metric": "a metric fails"}[where]
    assert told.startswith(f"after 8 updates: {what}: {FAILURES[way]}")
    assert (run / "checkpoints/step_00000008").is_dir()


@pytest.mark.parametrize("way", ["panic", "leave", "exhausted"])
def test_what_is_no_exception_is_named_before_the_run_too(tmp_path, quiet, way):
    """By the first look at the model."""
    with pytest.raises(ConfigError, match=r"^train\.objective: fails on a batch of .*sample_faulty_parts\.py:"):
        train(faulty(tmp_path / "run", way, where="evaluation", at=[0]), console=quiet)
    assert not (tmp_path / "run").exists()


def returning(run, way, in_losses=False, **changed):
    made = config(run, MLPS, {"first": ADAMW, "second": ADAMW}, objective="returning", **changed)
    made["train"]["objective"]["params"] = {"way": way, "in_losses": in_losses}
    made["plugins"].append("sample_faulty_parts")
    return made


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("nothing", "got a NoneType"),
        ("number", "got a float"),
        ("no losses", "its losses are {}"),
        ("vector", "the metric 'sizes' has shape [3]. Take its mean over the batch."),
        ("text", "the metric 'note' is a str"),
        ("short", "not each batch of this update has the loss 'late'"),
    ],
)
def test_what_an_update_must_return_is_told_and_nothing_is_lost(tmp_path, quiet, way, problem):
    told = told_by(returning(tmp_path / "run", way, data={"batch_size": 7}, accumulate=6), quiet)  # the last has 5
    assert told.splitlines()[0] == (
        "after 1 update: train.objective: its update must return an Outcome of scalar tensors; " + problem
    )
    assert (tmp_path / "run/checkpoints/step_00000001").is_dir()


def test_metrics_may_be_numbers_and_of_some_batches(tmp_path, quiet):
    """Of some: they are means over the batches that have them."""
    train(returning(tmp_path / "a", "numbers", in_losses=True), console=quiet)
    *_, update, evaluation = metrics_of(tmp_path / "a")
    for line in (update, evaluation):
        assert (line["half"], line["two"], line["rows"], line["true"]) == (0.5, 2, 3, 1)
    train(returning(tmp_path / "b", "some", in_losses=True, data={"batch_size": 7}, accumulate=6), console=quiet)
    *_, update, evaluation = metrics_of(tmp_path / "b")
    assert (update["rows"], evaluation["rows"]) == (7, 7)


@pytest.mark.parametrize("where", ["loss", "evaluation"])
def test_a_run_stays_where_it_began_though_users_code_changes_the_working_directory(
    tmp_path, quiet, monkeypatch, where
):
    for at, place in (([2], "wandering"), ([], "whole")):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        optims = {"first": ADAMW, "second": ADAMW}
        train(faulty("run", "wander", at, where, optims, eval_every=3, save_every=4), console=quiet)
        monkeypatch.chdir(tmp_path / place)
        resume("run", {"train.total_steps": 14}, console=quiet)
    runs = [tmp_path / place / "run" for place in ("wandering", "whole")]
    assert metrics_of(runs[0]) == metrics_of(runs[1])
    folders = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in runs]
    assert folders[0] == folders[1] == ["latest", *(f"step_{step:08d}" for step in (4, 8, 12, 14))]


def test_an_update_that_has_moved_a_component_is_not_saved(tmp_path, quiet):
    run = tmp_path / "run"
    optims = {"first": ADAMW, "second": ADAMW}
    made = config(run, MLPS, optims, objective="faulty_actor_critic", save_every=4)
    made["plugins"].append("sample_faulty_parts")
    told = told_by(made, quiet)
    assert "ValueError: between two steps (sample_faulty_parts.py:" in told
    assert "This update has moved second already" in told
    assert "The newest finite checkpoint: after 4 updates" in told


def test_a_failure_at_the_first_update_leaves_nothing_to_resume(tmp_path, quiet):
    told = told_by(faulty(tmp_path / "run", "explode", at=[0]), quiet)
    assert "update 0 (epoch 0, batch 0 of 5" in told
    assert "The newest complete checkpoint: none." in told


@pytest.mark.parametrize("save_async", [False, True])
@pytest.mark.parametrize(("where", "place"), [("loss", "update 6 (epoch 1, batch 1 of 5"), ("evaluation", "after 7 u")])
def test_an_interrupt_of_the_users_own_is_saved_as_a_failure_is(tmp_path, quiet, save_async, where, place):
    run = tmp_path / "run"
    often = {"eval_every": 7, "save_every": None, "save_async": save_async}
    with pytest.raises(KeyboardInterrupt) as raised:
        train(faulty(run, "interrupt", at=[6], where=where, **often), console=quiet)
    told, done = str(raised.value), 6 if where == "loss" else 7
    assert told.startswith(place)
    assert ": KeyboardInterrupt (sample_faulty_parts.py:" in told
    assert told.endswith(
        f"The newest finite checkpoint: after {counted(done, 'update')}. `innerstep resume {run}` continues there."
    )
    assert (run / "checkpoints/latest").read_text() == f"step_{done:08d}\n"


def test_an_interrupt_that_a_second_signal_made_saves_nothing(tmp_path, quiet):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            train(faulty(tmp_path / "run", "press_twice", save_every=None), console=quiet)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_command_says_where_an_interrupt_of_the_users_own_came_and_what_is_saved(tmp_path, lives):
    run = tmp_path / "run"
    (tmp_path / "config.json").write_text(json.dumps(faulty(run, "interrupt", at=[3])))
    code, printed = trouble.command(lives, ["train", tmp_path / "config.json"], run)
    assert code == 130
    assert "update 3 (epoch 0, batch 3 of 5, all counted from 0): KeyboardInterrupt (sample_faulty_parts.py:" in printed
    assert f"after 3 updates. `innerstep resume {run}` continues there." in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("optim", ["adamw", "sgd", "torch.optim.Adamax", "schedule_free_radam"])
def test_a_weight_that_turns_float64_in_the_run_is_named(tmp_path, quiet, optim):
    params = {"sgd": {"momentum": 0.9}}.get(optim, {})
    optims = {"first": {"type": optim, "params": params}, "second": ADAMW}
    told = told_by(faulty(tmp_path / "run", "double", at=[5], optims=optims), quiet)
    assert told.startswith("update 5 (epoch 1, batch 0 of 5")
    assert "model.components.first: its tensor 'layers.0.weight' was float32 [5, 4] before the first upd" in told
    assert told.count("layers.0.weight' was") == 1
    assert "The newest finite checkpoint: after 4 updates." in told


@pytest.mark.parametrize(("way", "error"), [("explode", UserCodeError), ("nan_loss", NonFiniteError)])
def test_state_that_a_failed_update_has_half_changed_is_said_to_be_that(tmp_path, quiet, way, error):
    said = "The state of train.objective is saved as the failed update left it."
    counting = faulty(tmp_path / "counting", way, objective="counting_faulty")
    stateless, saved = faulty(tmp_path / "stateless", way), faulty(tmp_path / "saved", way, save_every=6)
    saved["train"]["objective"]["type"] = "counting_faulty"
    for made, expected in ((counting, True), (stateless, False), (saved, False)):
        with pytest.raises(error) as raised:
            train(made, console=quiet)
        assert (said in str(raised.value)) == expected
    for made, count in ((counting, 7), (saved, 6)):
        folder = Path(made["train"]["run_dir"]) / "checkpoints/step_00000006"
        assert read_flat_values(folder, OBJECTIVE_STATE) == {"count": count}


def test_the_command_shows_the_users_lines_alone(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(faulty(tmp_path / "run", "explode")))
    code, text = cli("train", path)
    assert code == 3
    assert 'raise RuntimeError("the simulator has no licence")' in text
    assert "error: update 6" in text
    assert "Traceback" not in text
    assert "trainer/loop/loop.py" not in text


def test_a_run_stopped_between_checkpoint_and_evaluation_evaluates_when_it_is_resumed(tmp_path, quiet, monkeypatch):
    """The evaluation comes after the checkpoint, and moves a plateau and the best: a resume makes up for it."""
    optims = {"first": PLATEAU, "second": ADAMW}
    options = {"eval_every": 3, "save_every": 3, "keep_best": {}, "keep_last": 9}
    train(config(tmp_path / "whole", two(), optims, **options), console=quiet)

    for moment in ("evaluate", "observe"):  # before the evaluation, and once it is written
        from trainer import evaluations

        original, calls = getattr(evaluations, moment), []

        def killed(*given, original=original, calls=calls):
            calls.append(given)
            if len(calls) == 2:
                raise KilledError
            return original(*given)

        run = tmp_path / moment
        with monkeypatch.context() as patch:
            patch.setattr(evaluations, moment, killed)
            with pytest.raises(KilledError):
                train(config(run, two(), optims, **options), console=quiet)
        assert (run / "checkpoints/latest").read_text() == "step_00000006\n"
        resume(run, console=quiet)
        assert metrics_of(run) == metrics_of(tmp_path / "whole")
        for name in ("latest", "best"):
            assert (run / "checkpoints" / name).read_text() == (tmp_path / "whole/checkpoints" / name).read_text()
        assert files_of(run / "checkpoints/step_00000012") == files_of(tmp_path / "whole/checkpoints/step_00000012")


def test_a_finished_run_resumed_evaluates_no_second_time(tmp_path, quiet):
    run = tmp_path / "run"
    train(config(run, two(), {"first": ADAMW, "second": ADAMW}, eval_every=6), console=quiet)
    before = metrics_of(run)
    result = resume(run, console=quiet)
    assert metrics_of(run) == before
    assert result.metrics["loss"] == before[-1]["loss"]


def test_sums_are_refused_where_batches_would_be_averaged(tmp_path, quiet):
    def summed(name, **changed):
        made = config(tmp_path / name, MLPS, {"first": ADAMW, "second": ADAMW}, objective="summed", **changed)
        made["plugins"].append("sample_faulty_parts")
        return made

    with pytest.raises(ConfigError, match=r"^train.accumulate: must be 1; got 2. Summed.means_over_samples is false"):
        train(summed("a", accumulate=2), console=quiet)
    with pytest.raises(ConfigError, match=r"^data.batch_size: must divide the 10 held-out samples; got 8"):
        train(summed("b"), console=quiet)
    assert train(summed("c", data={"batch_size": 5}), console=quiet).step == 12
