"""`monitor: train_NAME`: the mean of a training metric over the samples since the last evaluation."""

import json

import pytest
from conftest import metrics_of
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import ConfigError, resume, train

QUIET = Console(quiet=True)
PLATEAU = {"type": "plateau", "monitor": "train_loss", "patience": 0, "threshold": 0.03, "factor": 0.5}
WAITS = {"type": "adamw", "params": {"lr": 1e-2, "schedule": PLATEAU}}
DATA = {"params": {"samples": 37}, "batch_size": 8}
"""An epoch ends with a short batch, whose samples weigh as much as the others."""


def made(run, optim=ADAMW, **changed):
    changed = {"eval_every": 3, "save_every": 2, "data": DATA, **changed}
    return config(run, MLPS, {"first": optim, "second": ADAMW}, **changed)


def training(run):
    return [line for line in metrics_of(run) if line["split"] == "train"]


def interval_means(run, every=3):
    """Return the mean loss over the samples of each three updates, from lines that have the size of their batch."""
    lines = training(run)
    parts = [lines[start : start + every] for start in range(0, len(lines), every)]
    sizes = [[8 if line["step"] % 5 < 4 else 5 for line in part] for part in parts]
    return [
        sum(line["loss"] * size for line, size in zip(part, of, strict=True)) / sum(of)
        for part, of in zip(parts, sizes, strict=True)
    ]


def best(run, step=12):
    return json.loads((run / f"checkpoints/step_{step:08d}/trainer.json").read_text())["best"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_checkpoint_has_the_best_mean_over_the_samples(tmp_path, mode):
    run = tmp_path / "run"
    train(made(run, keep_best={"monitor": "train_loss", "mode": mode}, save_every=None), console=QUIET)
    means = interval_means(run)
    chosen = means.index({"min": min, "max": max}[mode](means))
    assert (run / "checkpoints/best").read_text().strip() == f"step_{3 * (chosen + 1):08d}"
    if chosen < 3:  # the last checkpoint is written before the last evaluation
        assert best(run)["value"] == pytest.approx(means[chosen], rel=1e-6)


def test_the_plateau_moves_by_it(tmp_path):
    run = tmp_path / "run"
    train(made(run, WAITS, total_steps=30), console=QUIET)
    lowest, lr, expected = float("inf"), 1e-2, []
    for mean in interval_means(run):
        expected += [lr] * 3
        if mean < lowest * (1 - 0.03):
            lowest = mean
        else:
            lr *= 0.5
    assert [line["lr/first"] for line in training(run)] == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_lines_and_weights_do_not_depend_on_the_lines_that_are_logged(tmp_path):
    for name, every in (("each", 1), ("some", 5)):
        train(made(tmp_path / name, WAITS, total_steps=30, log_every=every), console=QUIET)
    each, some = training(tmp_path / "each"), training(tmp_path / "some")
    assert some == [line for line in each if line["step"] % 5 == 0 or line["step"] == 29]


@pytest.mark.parametrize("step", [2, 4, 6, 8, 10])
def test_a_resume_within_the_interval_has_the_same_mean(tmp_path, step):
    run = tmp_path / "run"
    train(made(run, WAITS, keep_best={"monitor": "train_loss"}), console=QUIET)
    lines, record = metrics_of(run), best(run)
    resume(run / f"checkpoints/step_{step:08d}", console=QUIET)
    assert metrics_of(run) == lines
    assert best(run) == record


def test_early_stopping_can_wait_for_one(tmp_path):
    rule = {"monitor": "train_size", "mode": "max", "patience": 1}
    assert train(made(tmp_path / "run", early_stopping=rule, eval_every=5), console=QUIET).step == 10


def test_an_unknown_one_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"keep_best\.monitor: waits for 'train_los', .*did you mean 'train_loss'"):
        train(made(tmp_path / "run", keep_best={"monitor": "train_los"}), console=QUIET)


def test_a_checkpoint_has_none_unless_something_waits(tmp_path):
    train(made(tmp_path / "run"), console=QUIET)
    assert "train_means" not in (tmp_path / "run/checkpoints/step_00000004/trainer.json").read_text()
