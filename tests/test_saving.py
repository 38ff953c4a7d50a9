"""When checkpoints are written, which are kept, and that a resume from any of them is the uninterrupted run."""

from types import SimpleNamespace

import pytest
from conftest import files_of, metrics_of
from rich.console import Console
from test_trained_optimizers import PLATEAU
from test_training import ADAMW, SCHEDULE_FREE, config, two

from trainer import ConfigError, resume, saving, train
from trainer.checkpoint_files import complete_checkpoints, verify

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


def test_a_resume_remembers_the_best(tmp_path, quiet):
    options = {"eval_every": 1, "save_every": 4, "keep_best": {"mode": "max"}}
    whole, run = (trained(tmp_path / name, **options) for name in ("whole", "run"))
    assert min(held_out(run), key=held_out(run).get) != 1, "the first evaluation is the highest, and is not the last"
    resume(run / "checkpoints/step_00000004", console=quiet)
    assert (run / "checkpoints/best").read_text() == (whole / "checkpoints/best").read_text()
    assert steps(run) == steps(whole)


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
