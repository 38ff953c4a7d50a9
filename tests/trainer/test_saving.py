"""When checkpoints are written, which are kept, and that a resume from any of them is the uninterrupted run."""

import io
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, PLATEAU, SCHEDULE_FREE, KilledError, config, two

from trainer import ConfigError, resume, train
from trainer.checkpoint import manager as saving
from trainer.checkpoint.best import BestCheckpoint
from trainer.checkpoint.directory import complete_checkpoints, verify

OPTIMS = {"first": SCHEDULE_FREE, "second": PLATEAU}
PLAIN = {"first": ADAMW, "second": ADAMW}
EVERY = {"save_every": 2, "eval_every": 3, "accumulate": 2, "precision": "fp16"}


@pytest.fixture
def quiet():
    return Console(quiet=True)


def trained(run, optims=OPTIMS, **options):
    train(config(run, two(), optims, **options), console=Console(quiet=True))
    return run


def steps(run):
    return sorted(int(folder.name[5:]) for folder in complete_checkpoints(run / "checkpoints"))


def held_out(run):
    return {line["step"]: line["loss"] for line in metrics_of(run) if line["split"] == "held_out"}


def last(run):
    return files_of(run / "checkpoints/step_00000012")


def test_an_asynchronous_run_writes_the_same(tmp_path):
    beside, between = (trained(tmp_path / str(how), save_async=how, **EVERY) for how in (True, False))
    assert steps(beside) == steps(between) == [2, 4, 6, 8, 10, 12]
    for step in steps(beside):
        folders = [run / f"checkpoints/step_{step:08d}" for run in (beside, between)]
        assert files_of(folders[0]) == files_of(folders[1])
        verify(folders[0])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_resume_from_any_checkpoint_is_the_uninterrupted_run(tmp_path, quiet, asynchronous):
    """In mid-epoch, with accumulation, a loss scale, a plateau and averaged weights."""
    options = {**EVERY, "save_async": asynchronous, "save_every": 1}
    whole = trained(tmp_path / "whole", **options)
    run = trained(tmp_path / "run", **options)
    for step in (11, 7, 4, 1):
        resume(run / f"checkpoints/step_{step:08d}", console=quiet)
        assert last(run) == last(whole)
        assert metrics_of(run) == metrics_of(whole)


def test_only_the_newest_are_kept(tmp_path):
    assert steps(trained(tmp_path / "run", keep_last=2, **EVERY)) == [10, 12]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_kept_besides_and_named(tmp_path, quiet, mode):
    best = {"monitor": "val_loss", "mode": mode}
    run = trained(tmp_path / "run", **{**EVERY, "eval_every": 1, "save_every": 5}, keep_last=1, keep_best=best)
    losses = held_out(run)
    best_step = min(losses, key=losses.get) if mode == "min" else max(losses, key=losses.get)
    assert steps(run) == sorted({best_step, 12})
    assert (run / "checkpoints/best").read_text() == f"step_{best_step:08d}\n"
    resume(run / "checkpoints/best", console=quiet)
    assert steps(run) == sorted({best_step, 12})


def test_a_run_whose_evaluations_give_no_number_says_that_there_is_no_best(tmp_path, monkeypatch):
    evaluations(monkeypatch, dict.fromkeys(range(1, 13), float("nan")))
    printed = Console(file=io.StringIO(), width=1000)
    train(config(tmp_path / "run", two(), PLAIN, eval_every=4, keep_best={}), console=printed)
    assert "no evaluation gave a val_loss that is a number: there is no best checkpoint" in printed.file.getvalue()


def test_a_resume_remembers_the_best(tmp_path, quiet):
    options = {"eval_every": 1, "save_every": 4, "keep_best": {"mode": "max"}}
    whole, run = (trained(tmp_path / name, **options) for name in ("whole", "run"))
    assert min(held_out(run), key=held_out(run).get) != 1, "the first evaluation is the highest, and is not the last"
    resume(run / "checkpoints/step_00000004", console=quiet)
    assert (run / "checkpoints/best").read_text() == (whole / "checkpoints/best").read_text()
    assert steps(run) == steps(whole)


@pytest.mark.parametrize(
    ("mode", "losses", "best"),
    [
        ("max", (1.0, math.inf, 0.5, 2.0), 6),
        ("max", (-math.inf, math.nan, -3.0, math.nan), 9),
        ("min", (1.0, -math.inf, 0.5, -2.0), 6),
        ("min", (math.inf, math.inf, math.nan, math.inf), 3),
    ],
)
def test_an_infinite_evaluation_is_judged_alike_after_a_kill(tmp_path, quiet, monkeypatch, mode, losses, best):
    """The run is killed between the line of the second evaluation and what follows from it."""
    evaluations(monkeypatch, dict(zip((3, 6, 9, 12), losses, strict=True)))
    made = config(tmp_path / "run", two(), PLAIN, eval_every=3, save_every=3, keep_best={"mode": mode})
    original = BestCheckpoint.observe

    def killed(best, step, metrics):
        if step == 6:
            raise KilledError
        return original(best, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(BestCheckpoint, "observe", killed)
        with pytest.raises(KilledError):
            train(made, console=quiet)
    resume(tmp_path / "run", console=quiet)
    assert (tmp_path / "run/checkpoints/best").read_text() == f"step_{best:08d}\n"


def test_a_resume_does_not_miss_a_best_that_a_better_one_has_replaced(tmp_path):
    run, console = trained(tmp_path / "run", PLAIN, eval_every=2, save_every=2, keep_last=1, keep_best={}), Console()
    before = files_of(run / "checkpoints")
    assert steps(run) == [12], "each evaluation is better than the one before"
    with console.capture() as printed:
        resume(run, console=console)
    assert "starts again" not in printed.get()
    assert files_of(run / "checkpoints") == before


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    times = iter(range(1000))
    # Each look at the clock, and each save, is one of ten seconds.
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: 10.0 * next(times)))
    run = trained(tmp_path / "run", PLAIN, save_every_minutes=0.5)
    assert steps(run) == [3, 6, 9, 12]


def test_what_a_resume_from_an_earlier_one_left_behind_is_not_taken_up(tmp_path, quiet):
    run = trained(tmp_path / "run", PLAIN, save_every=3)
    with pytest.raises(ConfigError, match="differs"):  # it stops before anything is changed
        resume(run / "checkpoints/step_00000003", {"seed": 1}, console=quiet)
    assert (run / "checkpoints/latest").read_text() == "step_00000012\n"
    resume(run / "checkpoints/step_00000003", {"train.save_every": 12}, console=quiet)
    assert steps(run) == [3, 6, 9, 12]
    assert complete_checkpoints(run / "checkpoints")[0].name == "step_00000012"


MISTAKES = {
    "a metric that there is not": (
        {"keep_best": {"monitor": "val_los"}, "eval_every": 1},
        "train.keep_best.monitor: waits for 'val_los', which is never reported; did you mean 'val_loss'",
    ),
    "no evaluations": (
        {"keep_best": {}},
        "train.keep_best.monitor: waits for 'val_loss', but evaluations come at the end only",
    ),
    "no minutes": ({"save_every_minutes": 0}, "train.save_every_minutes: must be greater than 0"),
    "nothing kept": ({"keep_last": 0}, "train.keep_last: must be greater than or equal to 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_before_anything_is_written(tmp_path, case):
    options, message = MISTAKES[case]
    with pytest.raises(ConfigError) as refusal:
        trained(tmp_path / "run", PLAIN, **options)
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_no_checkpoint_cannot_be_resumed(tmp_path, quiet):
    run = trained(tmp_path / "run", PLAIN)
    (run / "checkpoints/step_00000012/trainer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"trainer.json: has 2 bytes.*\n`innerstep resume .*run` takes the newest"):
        resume(run / "checkpoints/step_00000012", console=quiet)
    (run / "checkpoints/best").write_text("step_00000099\n")
    with pytest.raises(ConfigError, match="checkpoints/best: names no checkpoint that is there"):
        resume(run / "checkpoints/best", console=quiet)


def test_a_run_is_not_made_shorter_than_it_is(tmp_path, quiet):
    run = trained(tmp_path / "run", PLAIN)
    with pytest.raises(ConfigError, match=r"train.total_steps: must be >= 12, the updates done; got 5"):
        resume(run, {"train.total_steps": 5}, console=quiet)


def test_a_longer_run_goes_on(tmp_path, quiet):
    for name, length in (("long", 20), ("short", 12)):
        trained(tmp_path / name, PLAIN, total_steps=length)  # the lr does not ask how long the run is
    resume(tmp_path / "short", {"train.total_steps": 20}, console=quiet)
    assert files_of(tmp_path / "short/checkpoints/step_00000020") == files_of(
        tmp_path / "long/checkpoints/step_00000020"
    )


def evaluations(monkeypatch, losses):
    """Let the evaluations give these losses, by the number of the update."""
    from trainer.evaluations import Evaluations

    monkeypatch.setattr(Evaluations, "on_held_out", lambda self: {"loss": losses[self._run.step], "accuracy": 0.5})
    monkeypatch.setattr("trainer.evaluations.check_monitors", lambda *arguments: None)


def best(run):
    path = run / "checkpoints/best"
    return int(path.read_text().strip()[5:]) if path.exists() else None


def test_another_rule_of_keep_best_starts_a_new_search(tmp_path, quiet, monkeypatch):
    evaluations(monkeypatch, dict.fromkeys(range(1, 13), 2.0))
    run = trained(tmp_path / "run", PLAIN, eval_every=3, save_every=3, keep_best={})
    assert best(run) == 3
    rule = {"train.keep_best.monitor": "val_accuracy", "train.keep_best.mode": "max"}
    resume(run / "checkpoints/step_00000006", rule, console=quiet)
    assert best(run) == 6, "the evaluation there comes after the checkpoint, and so belongs to the resumed run"


def test_a_best_of_another_history_is_not_the_best(tmp_path, quiet, monkeypatch):
    evaluations(monkeypatch, {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0, 10: 2.0, 12: 0.5})
    run = trained(tmp_path / "run", PLAIN, eval_every=2, save_every=2, keep_last=2, keep_best={})
    assert (best(run), steps(run)) == (12, [10, 12])
    evaluations(monkeypatch, {12: 9.0})
    resume(run / "checkpoints/step_00000010", console=quiet)
    assert best(run) == 10, "the best evaluation of this history whose checkpoint is there"
    assert verify(run / "checkpoints/step_00000012")["step"] == 12


def test_a_best_that_was_not_saved_is_not_the_best(tmp_path, monkeypatch):
    evaluations(monkeypatch, {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0, 10: 2.0, 12: 2.0})
    write = saving.write_checkpoint

    def full_at_4(folder, step, *others):
        if step == 4:
            raise OSError(28, "No space left on device")
        return write(folder, step, *others)

    monkeypatch.setattr(saving, "write_checkpoint", full_at_4)
    run = trained(tmp_path / "run", PLAIN, eval_every=2, save_every=2, keep_best={}, on_save_error="continue")
    assert (best(run), steps(run)) == (6, [2, 6, 8, 10, 12])


def test_going_back_leaves_what_was_there_until_the_run_comes_to_it(tmp_path, quiet):
    run = trained(tmp_path / "run", PLAIN, save_every=2)
    resume(run / "checkpoints/step_00000004", {"train.keep_last": 2, "train.total_steps": 6}, console=quiet)
    assert steps(run) == [4, 6, 8, 10, 12]


def test_two_processes_do_not_train_one_run(tmp_path, quiet):
    run = trained(tmp_path / "run", PLAIN)
    code = (
        "from pathlib import Path; from trainer.run_lock import locked\n"
        f"with locked(Path({str(run)!r})): print(), input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-u", "-c", code], **pipes)
    other.stdout.readline()
    before = files_of(run)
    for start in (lambda: resume(run, console=quiet), lambda: train(config(run, two(), PLAIN), overwrite=True)):
        with pytest.raises(ConfigError, match=f"process {other.pid} is training this run"):
            start()
    assert files_of(run) == before
    other.kill()
    other.communicate()
    assert resume(run, console=quiet).step == 12


def test_a_linked_run_directory_can_be_overwritten(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for _ in range(2):
        train(config(tmp_path / "run", two(), PLAIN), overwrite=True, console=Console(quiet=True))
    assert steps(tmp_path / "disk") == [12]


def test_a_checkpoint_is_found_from_inside_its_folder(tmp_path, quiet, monkeypatch):
    monkeypatch.chdir(trained(tmp_path / "run", PLAIN) / "checkpoints")
    assert resume("step_00000012", console=quiet).step == 12
