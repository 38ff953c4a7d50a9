"""`freeze: {until: …}`: a component stays as it is in the first updates, and then trains along its whole schedule."""

import io

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import MLPS, config, ready, two

from trainer import ConfigError, resume, train
from trainer.config.load import load_config

COSINE = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-2, "end_lr": 1e-4, "warmup_steps": 1}}
FILES = ("model.safetensors", "optimizer.safetensors", "optimizer.json")
QUIET = Console(file=io.StringIO())


def frozen_until(run_dir, until, components=None, **changed):
    parts = components or two()
    return config(
        run_dir,
        {**parts, "first": {**parts["first"], "freeze": {"until": until}}},
        {"first": COSINE, "second": COSINE},
        **changed,
    )


def weights(run, step, name="first"):
    return load_file(run / f"checkpoints/step_{step:08}/{name}/model.safetensors")


def differ(first, second):
    return {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}


def lrs(run, name):
    return [line[f"lr/{name}"] for line in metrics_of(run) if line["split"] == "train"]


@pytest.mark.parametrize(("until", "first"), [(5, 5), ("25%", 3), ("1ep", 5)])
def test_nothing_of_it_changes_before_and_all_of_it_after(tmp_path, until, first):
    run = tmp_path / "run"
    train(frozen_until(run, until, save_every=1, eval_every=2), console=QUIET)
    start = weights(run, 1)
    assert not differ(start, weights(run, first))  # BatchNorm's statistics neither
    assert differ(start, weights(run, first + 2)) == {*start}  # the first step is at lr 0
    assert differ(weights(run, 1, "second"), weights(run, 3, "second")) == {*start}
    assert ["grad_norm/first" in line for line in metrics_of(run) if line["split"] == "train"] == [
        step >= first for step in range(12)
    ]


def test_its_schedule_begins_with_its_first_step_and_ends_with_the_run(tmp_path):
    whole, late = tmp_path / "whole", tmp_path / "late"
    train(frozen_until(late, 4), console=QUIET)
    train(config(whole, two(), {"first": COSINE, "second": COSINE}, total_steps=8), console=QUIET)
    assert lrs(late, "first")[4:] == lrs(whole, "first")
    assert set(lrs(late, "first")[:4]) == {lrs(whole, "first")[0]}
    assert lrs(late, "second")[-1] == 1e-4


@pytest.mark.parametrize("stop", [3, 7], ids=["while it is frozen", "while it trains"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path, stop):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(frozen_until(whole, 5, save_every=stop), console=QUIET)
    train(frozen_until(parted, 5, save_every=stop), console=QUIET)
    resume(parted / f"checkpoints/step_{stop:08}", console=QUIET)
    again, once = ([[*line] for line in metrics_of(run)] for run in (parted, whole))
    assert again == once  # the values of a line are in the same order
    last = [files_of(run / "checkpoints/step_00000012") for run in (parted, whole)]
    for name in (f"{each}/{file}" for each in ("first", "second") for file in FILES):
        assert last[0][name] == last[1][name]


def test_every_and_until_together(tmp_path):
    made = frozen_until(tmp_path / "run", 5, MLPS)
    made["model"]["component_optims"]["first"]["every"] = 3
    trainer = ready(made, printed := Console(file=io.StringIO(), width=500))
    trainer.run()
    assert trainer.optimizers["first"].scheduler.last_epoch == 2  # in the updates 6 and 9
    assert "off the plan" not in printed.file.getvalue()


def test_a_plateau_waits_until_its_component_trains(tmp_path):
    plateau = {"type": "adamw", "params": {"lr": 0.1, "schedule": {"type": "plateau", "patience": 0, "factor": 0.5}}}
    made = frozen_until(tmp_path / "run", 8, MLPS, eval_every=1)
    made["model"]["component_optims"] = {"first": plateau, "second": {"type": "sgd", "params": {"lr": 0.0}}}
    train(made, console=QUIET)
    assert set(lrs(tmp_path / "run", "first")[:9]) == {0.1}


@pytest.mark.parametrize(
    ("until", "message"),
    [
        (12, r"model.components.first.freeze.until: must be less than the 12 updates of the run; got 12. freeze: true"),
        ("100%", r"first.freeze.until: must be less than the 12 updates of the run; got 100%"),
        (0, r"first.freeze.*until: must be"),
        ("soon", r"first.freeze.*until: must be a number of updates"),
    ],
)
def test_a_time_that_cannot_be_is_refused(tmp_path, until, message):
    with pytest.raises(ConfigError, match=message):
        train(frozen_until(tmp_path / "run", until), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_one_component_must_train_from_the_start(tmp_path):
    made = frozen_until(tmp_path / "run", 3)
    made["model"]["components"]["second"]["freeze"] = {"until": 2}
    with pytest.raises(ConfigError, match="all are frozen until update 2"):
        train(made, console=QUIET)


def test_a_sharded_component_cannot_be_frozen_for_a_while(tmp_path):
    made = frozen_until(tmp_path / "run", 3)
    made["model"]["components"]["first"]["placement"] = "shard"
    with pytest.raises(ConfigError, match=r"model.components.first.placement: must be replicate with freeze.until"):
        load_config(made)


def test_a_resume_with_another_time_is_refused(tmp_path):
    train(frozen_until(tmp_path / "run", 5, save_every=3), console=QUIET)
    with pytest.raises(ConfigError, match=r"first.freeze.until: saved 5, now 6"):
        resume(tmp_path / "run", {"model.components.first.freeze": {"until": 6}}, console=QUIET)


def test_a_share_of_another_length_is_another_time(tmp_path):
    made = frozen_until(tmp_path / "run", "25%", save_every=4)
    made["model"]["component_optims"] = {name: {"type": "sgd", "params": {"lr": 1e-2}} for name in ("first", "second")}
    train(made, console=QUIET)
    with pytest.raises(ConfigError, match=r"first.freeze.until: saved 3, now 6"):
        resume(tmp_path / "run", {"train.total_steps": 24}, console=QUIET)
    kept = {"train.total_steps": 24, "resume.on_change": "keep"}
    resume(tmp_path / "run/checkpoints/step_00000004", kept, console=QUIET)
    assert ["grad_norm/first" in line for line in metrics_of(tmp_path / "run") if line["split"] == "train"] == [
        step >= 3 for step in range(24)
    ]


@pytest.mark.parametrize(("until", "trains"), [("25%", "yes, after 25%"), (1, "yes, after 1 update")])
def test_the_plan_shows_the_time(tmp_path, until, trains):
    plan = ready(frozen_until(tmp_path / "run", until), QUIET).plan()
    assert [component.trains for component in plan.components] == [trains, "yes"]
