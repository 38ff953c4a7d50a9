"""Components that are stepped at every n-th update, and samples that all weigh the same."""

import io
import json

import pytest
import sample_faulty_parts  # noqa: F401
import torch
from conftest import metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, MLPS, config

from trainer import ConfigError, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.schedule_plots import _previews

COSINE = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-2, "end_lr": 1e-4, "warmup_steps": 1}}


@pytest.fixture
def printed():
    return Console(file=io.StringIO(), width=1000)


def delayed(run, every=2, objective_params=None, **changed):
    made = config(run, MLPS, {"first": {**COSINE, "every": every}, "second": COSINE}, objective="delayed", **changed)
    made["plugins"].append("sample_faulty_parts")
    made["train"]["objective"]["params"] = objective_params or {"every": 2}
    return made


def lrs(run, name):
    return [line.get(f"lr/{name}") for line in metrics_of(run) if line["split"] == "train"]


def test_a_component_stepped_at_every_second_update_runs_through_its_whole_curve(tmp_path, printed):
    run = tmp_path / "run"
    train(delayed(run, total_steps=20), console=printed)
    own = lrs(run, "first")[::2]
    assert own[1] == 1e-2
    assert own[9] == 1e-4
    assert lrs(run, "second")[19] == 1e-4
    assert "off the plan" not in printed.file.getvalue()


def test_one_loss_steps_a_component_when_its_turn_comes(tmp_path, printed):
    made = config(tmp_path / "run", MLPS, {"first": {**COSINE, "every": 3}, "second": ADAMW}, total_steps=11)
    cfg = load_config(made)
    trainer = OfflineTrainer(cfg, printed)
    cfg.train.run_dir.mkdir()
    trainer.run()
    assert trainer.optimizers["first"].scheduler.last_epoch == 4
    assert lrs(tmp_path / "run", "first")[9] == 1e-4
    assert "off the plan" not in printed.file.getvalue()


def test_an_objective_that_steps_otherwise_than_said_is_told(tmp_path, printed):
    match = r"every: is 3, but the objective steps first at the updates 0 and 2"
    with pytest.raises(RuntimeError, match=match):
        train(delayed(tmp_path / "more", every=3), console=printed)
    train(delayed(tmp_path / "less", every=1), console=printed)
    assert (
        "first: was stepped 6 times in 12 updates, and planned were 12: its schedule is off the plan. Set"
        " model.component_optims.first.every to the updates between two steps."
    ) in printed.file.getvalue()


def test_a_component_that_is_never_stepped_is_told_also_early(tmp_path, printed):
    made = delayed(tmp_path / "run", every=1, objective_params={"silent": True}, total_steps=120, save_every=500)
    train(made, console=printed)
    text = printed.file.getvalue()
    assert "first: the objective did not step its optimizer in 100 updates" in text
    assert "second: the objective did not step its optimizer in 120 updates" in text


def test_plan_and_plot_show_the_components_own_steps(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(delayed(tmp_path / "run", total_steps=20)))
    _, plan = cli("plan", path)
    assert "(1) ↘ 1e-04 (10), stepped every 2 updates" in plan
    assert "longer than" not in plan
    cfg = load_config(delayed(tmp_path / "run", total_steps=20))
    preview = _previews(cfg, cfg.train.horizon(5))["first"]
    assert [preview.values_at(update)["lr"] for update in (2, 3, 18, 19)] == [1e-2, 1e-2, 1e-4, 1e-4]


def test_every_lasts_in_a_run(tmp_path, printed):
    from trainer import resume

    train(delayed(tmp_path / "run", save_every=4), console=printed)
    with pytest.raises(ConfigError, match=r"model.component_optims.first.every: saved 2, now 1"):
        resume(tmp_path / "run", {"model.component_optims.first.every": 1}, console=printed)


def test_a_new_optimizer_starts_where_the_components_own_steps_are(tmp_path, printed):
    from trainer import resume

    run, sgd = tmp_path / "run", {"type": "sgd", "every": 2}
    sgd["params"] = {"lr": 0.1, "schedule": {"type": "cosine", "num_warmup_steps": 0}}
    train(delayed(run, save_every=5, total_steps=20), console=printed)
    changed = {"model.component_optims.first": sgd, "resume.on_change": "override"}
    resume(run / "checkpoints/step_00000015", changed, console=printed)
    assert "with its schedule at step 8, after 15 updates" in printed.file.getvalue()
    state = json.loads((run / "checkpoints/step_00000020/first/optimizer.json").read_text())
    assert state["scheduler"]["last_epoch"] == 10


def test_several_steps_an_update_are_told_with_a_remedy_that_helps(tmp_path, printed):
    made = config(tmp_path / "run", MLPS, {"first": ADAMW, "second": ADAMW}, objective="several_steps")
    made["plugins"].append("sample_faulty_parts")
    train(made, console=printed)
    text = printed.file.getvalue()
    assert (
        "first: was stepped 36 times in 12 updates, and planned were 12: its schedule is off the plan. Give the" in text
    )
    assert "first.every" not in text


@pytest.mark.parametrize(("samples", "accumulate"), [(18, 3), (5, 2), (13, 4), (9, 2)])
def test_an_accumulated_update_is_that_of_the_large_batch_also_at_the_end_of_an_epoch(
    tmp_path, printed, samples, accumulate
):
    optims = {name: {"type": "sgd", "params": {"lr": 0.05, "momentum": 0.9, "grad_clip_norm": None}} for name in MLPS}
    data = {"params": {"samples": samples}}
    for name, options in {"large": (4 * accumulate, 1), "small": (4, accumulate)}.items():
        size, count = options
        made = config(tmp_path / name, MLPS, optims, data={**data, "batch_size": size}, accumulate=count)
        made["train"]["log_every"] = 1
        train(made, console=printed)
    large, small = (
        [(line["loss"], line.get("size")) for line in metrics_of(tmp_path / name) if line["split"] == "train"]
        for name in ("large", "small")
    )
    assert [loss for loss, _ in small] == pytest.approx([loss for loss, _ in large], rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_sparse_gradients_train_as_the_dense_ones_that_they_stand_for(tmp_path, printed, accumulate):
    weights = []
    for sparse in (False, True):
        run = tmp_path / str(sparse)
        components = {"first": {"type": "sparse_table", "params": {"sparse": sparse}}}
        made = config(run, components, {"first": {"type": "sgd", "params": {"lr": 0.1}}}, grad_clip_norm=0.5)
        made["plugins"].append("sample_faulty_parts")
        made["train"] |= {"accumulate": accumulate}
        train(made, console=printed)
        weights.append(load_file(run / "checkpoints/step_00000012/first/model.safetensors")["table.weight"])
    torch.testing.assert_close(weights[1], weights[0])


def test_an_epochs_batches_know_their_samples():
    from trainer import TensorSplit
    from trainer.loop.batches import ShuffledBatches

    for drop_last in (False, True):
        batches = ShuffledBatches(TensorSplit({"x": torch.arange(22)}), 4, 0, drop_last=drop_last, accumulate=2)
        for step in range(7):
            assert batches.sizes(step) == [len(batch["x"]) for batch in batches.of_update(step)]
