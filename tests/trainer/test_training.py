"""Training runs, as a user sees them: weights, learning rates, metrics and files."""

import copy
import io

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import ADAMW, SCHEDULE_FREE, WARMUP, config, drop, two, weights
from sample_schedules import SCHEDULES

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer import ConfigError, resume, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.mark.parametrize("second", [ADAMW, SCHEDULE_FREE], ids=["adamw", "schedule_free"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_equals_an_uninterrupted_run(tmp_path, quiet, second, precision):
    optims = {"first": WARMUP, "second": second}
    options = {"save_every": 5, "eval_every": 4, "precision": precision}
    train(config(tmp_path / "whole", two(), optims, **options), console=quiet)

    train(config(tmp_path / "parts", two(), optims, **options), console=quiet)
    for later in ("step_00000010", "step_00000012"):
        drop(tmp_path / "parts" / "checkpoints" / later)
    result = resume(tmp_path / "parts", console=quiet)

    assert result.step == 12
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")


def test_evaluating_and_saving_leave_no_trace(tmp_path, quiet):
    optims = {"first": SCHEDULE_FREE, "second": ADAMW}
    train(config(tmp_path / "seldom", two(), optims), console=quiet)
    train(config(tmp_path / "often", two(), optims, save_every=1, eval_every=1), console=quiet)
    seldom, often = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("seldom", "often"))
    assert seldom == often


def test_a_frozen_component_is_left_to_the_bit(tmp_path, quiet):
    cfg = load_config(config(tmp_path / "run", two(freeze=True), {"first": ADAMW, "second": ADAMW}))
    trainer = OfflineTrainer(cfg, quiet)
    assert list(trainer.optimizers) == ["second"]
    assert "first is frozen: its optimizer adamw is skipped" in plan_text(trainer.plan())
    cfg.train.run_dir.mkdir()
    before = copy.deepcopy(trainer.components["first"].state_dict())
    trainer.run()
    after = trainer.components["first"].state_dict()
    assert "norm.running_mean" in before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not trainer.components["first"].training
    assert trainer.components["second"].training
    assert not (tmp_path / "run/checkpoints/step_00000012/first/optimizer.json").exists()


def test_a_partly_frozen_component_trains_only_the_rest(tmp_path, quiet):
    cfg = load_config(config(tmp_path / "run", {"first": {"type": "partly_frozen"}}, {"first": ADAMW}))
    trainer = OfflineTrainer(cfg, quiet)
    names = [name for group in trainer.optimizers["first"].param_groups for name in group["param_names"]]
    assert names == ["trained.weight", "trained.bias"]
    assert "20 of it" in plan_text(trainer.plan())
    cfg.train.run_dir.mkdir()
    before = copy.deepcopy(trainer.components["first"].state_dict())
    trainer.run()
    after = trainer.components["first"].state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["trained.weight", "trained.bias"]


def test_each_component_runs_at_its_own_curve(tmp_path, quiet):
    optims = {"first": WARMUP, "second": {"type": "adamw_cosine_schedule", "params": {"max_lr": 3e-3}}}
    train(config(tmp_path / "run", two(), optims), console=quiet)
    lines = [line for line in metrics_of(tmp_path / "run") if line["split"] == "train"]
    for name, optim in optims.items():
        curve = OPTIMIZER_BUILDER_REGISTRY[optim["type"]](**optim["params"], total_steps=12).curve
        assert [line[f"lr/{name}"] for line in lines] == [curve.lr_at(k) for k in range(12)]


def test_an_objective_with_several_updates_in_its_own_order(tmp_path, quiet):
    components = {
        "actor": {"type": "normed"},
        "critic": {"type": "partly_frozen"},
        "target": {"type": "partly_frozen", "freeze": True},
    }
    optims = {"actor": ADAMW, "critic": WARMUP}
    options = {"objective": "actor_critic", "save_every": 7}
    cfg = load_config(config(tmp_path / "run", components, optims, **options))
    trainer = OfflineTrainer(cfg, quiet)
    cfg.train.run_dir.mkdir()
    target = copy.deepcopy(trainer.components["target"].state_dict())
    trainer.run()
    assert not torch.equal(target["trained.weight"], trainer.components["target"].state_dict()["trained.weight"])
    assert [optimizer.scheduler.last_epoch for optimizer in trainer.optimizers.values()] == [12, 12]

    train(config(tmp_path / "parts", components, optims, **options), console=quiet)
    drop(tmp_path / "parts" / "checkpoints" / "step_00000012")
    resume(tmp_path / "parts", console=quiet)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("run", "parts"))
    assert whole == parts


def test_an_actors_loss_leaves_its_critic_alone(tmp_path, quiet):
    components = {
        "actor": {"type": "normed"},
        "critic": {"type": "normed"},
        "target": {"type": "normed", "freeze": True},
    }
    cfg = load_config(config(tmp_path, components, {"actor": ADAMW, "critic": ADAMW}, objective="actor_critic"))
    trainer = OfflineTrainer(cfg, quiet)
    batch = next(trainer.batches.of_update(0))
    critic = copy.deepcopy(dict(trainer.components["critic"].named_parameters()))
    loss = -trainer.components["critic"](trainer.components["actor"](batch["x"])).mean()
    trainer.updater.step(loss, "actor")
    for name, parameter in trainer.components["critic"].named_parameters():
        assert parameter.grad is None, name
        assert torch.equal(parameter, critic[name])


def test_batch_norm_is_measured_at_the_averaged_weights(tmp_path, quiet):
    """At an evaluation, the statistics are those of the averaged weights; afterwards they are as before."""
    one = {"first": {"type": "normed"}}
    cfg = load_config(config(tmp_path / "run", one, {"first": SCHEDULE_FREE}, data={"batch_size": 37}))
    trainer = OfflineTrainer(cfg, quiet)
    cfg.train.run_dir.mkdir()
    trainer.run()
    component, optimizer = trainer.components["first"], trainer.optimizers["first"]
    running = component.norm.running_mean.clone()
    batch = trainer.data.train.batch(torch.arange(37))
    seen = {}

    class Watching(type(trainer.objective)):
        def losses(self, components, batch):
            seen["mean"] = component.norm.running_mean.clone()
            return super().losses(components, batch)

    trainer.objective = Watching()
    trainer.evaluations.on_held_out()
    optimizer.eval()
    with torch.no_grad():
        expected = component.linear(batch["x"]).mean(0)
    optimizer.train()
    torch.testing.assert_close(seen["mean"], expected)
    assert not torch.allclose(seen["mean"], running, atol=1e-3)
    assert torch.equal(component.norm.running_mean, running)


def test_a_frozen_components_batch_norm_is_not_measured_anew(tmp_path, quiet):
    cfg = load_config(config(tmp_path / "run", two(freeze=True), {"second": SCHEDULE_FREE}))
    trainer = OfflineTrainer(cfg, quiet)
    kept, seen = trainer.components["first"].norm.running_mean.clone(), []

    class Watching(type(trainer.objective)):
        def losses(self, components, batch):
            seen.append(components["first"].norm.running_mean.clone())
            return super().losses(components, batch)

    trainer.objective = Watching()
    trainer.evaluations.on_held_out()
    assert len(seen) > 1
    assert all(torch.equal(mean, kept) for mean in seen)


def test_tied_weights_and_shared_buffers_are_saved_and_resumed(tmp_path, quiet):
    tied = {"first": {"type": "tied"}}
    train(config(tmp_path / "whole", tied, {"first": WARMUP}, save_every=5), console=quiet)
    train(config(tmp_path / "parts", tied, {"first": WARMUP}, save_every=5), console=quiet)
    drop(tmp_path / "parts" / "checkpoints" / "step_00000012")
    resume(tmp_path / "parts", console=quiet)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_saved_weights_of_a_schedule_free_component_are_the_averaged_ones(tmp_path, quiet):
    from safetensors.torch import load_file

    cfg = load_config(config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": SCHEDULE_FREE}))
    trainer = OfflineTrainer(cfg, quiet)
    cfg.train.run_dir.mkdir()
    trainer.run()
    saved = load_file(tmp_path / "run/checkpoints/step_00000012/first/model.safetensors")
    training = trainer.components["first"].linear.weight.detach().clone()
    trainer.optimizers["first"].eval()
    assert torch.equal(saved["linear.weight"], trainer.components["first"].linear.weight)
    assert not torch.equal(saved["linear.weight"], training)


def test_a_component_goes_into_another_run(tmp_path, quiet):
    train(config(tmp_path / "old", two(), {"first": ADAMW, "second": ADAMW}), console=quiet)
    folder = tmp_path / "old" / "checkpoints" / "step_00000012" / "first"
    components = two(init_from=str(folder), freeze=True)
    train(config(tmp_path / "new", components, {"second": ADAMW}), console=quiet)
    assert weights(tmp_path / "old")["first/model.safetensors"] == weights(tmp_path / "new")["first/model.safetensors"]

    misfit = {"first": {"type": "normed", "params": {"width": 5}, "init_from": str(folder)}}
    with pytest.raises(ConfigError, match=r"model.components.first.init_from.*mis-shaped: linear.bias.*norm.weight"):
        train(config(tmp_path / "misfit", misfit, {"first": ADAMW}), console=quiet)


def test_components_do_not_depend_on_each_others_presence(tmp_path, quiet):
    both = load_config(config(tmp_path, two(), {"first": ADAMW, "second": ADAMW}))
    alone = load_config(config(tmp_path, {"second": {"type": "normed"}}, {"second": ADAMW}))
    one, other = (OfflineTrainer(cfg, quiet).components["second"].state_dict() for cfg in (both, alone))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_result_says_how_it_ended(tmp_path, quiet):
    result = train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}), console=quiet)
    assert (result.run_dir, result.step) == (tmp_path / "run", 12)
    assert result.metrics == {
        name: value
        for name, value in metrics_of(tmp_path / "run")[-1].items()
        if name not in ("split", "step", "epoch")
    }
    assert result.metrics["loss"] == result.metrics["loss/squared"]


def test_without_held_out_data_nothing_is_evaluated(tmp_path, quiet):
    data = {"params": {"held_out": 0}}
    result = train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, data=data), console=quiet)
    assert result.metrics == {}
    assert {line["split"] for line in metrics_of(tmp_path / "run")} == {"train"}


def test_epochs_stand_for_steps(tmp_path, quiet):
    cfg = config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, total_steps=None, epochs=3)
    assert train(cfg, console=quiet).step == 3 * 5
    cfg = config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, total_steps=None, epochs=3)
    cfg["data"]["drop_last"] = True
    assert train(cfg, console=quiet, overwrite=True).step == 3 * 4


def test_resume_of_a_finished_run_changes_nothing(tmp_path, quiet):
    train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}), console=quiet)
    before = files_of(tmp_path / "run")
    assert resume(tmp_path / "run", console=quiet).step == 12
    assert files_of(tmp_path / "run") == before


@pytest.mark.parametrize("override", [{"seed": 3}, {"train.grad_clip_norm": 1.0}, {"train.precision": "bf16"}])
def test_resume_refuses_another_seed_or_way_of_training(tmp_path, quiet, override):
    train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, save_every=5), console=quiet)
    drop(tmp_path / "run" / "checkpoints" / "step_00000012")
    name = next(iter(override)).split(".")[-1]
    with pytest.raises(ConfigError, match=rf"{name}: saved .*, now "):
        resume(tmp_path / "run", override, console=quiet)


def test_resume_refuses_changed_optimizers_and_data(tmp_path, quiet):
    train(config(tmp_path / "run", two(), {"first": WARMUP, "second": ADAMW}, save_every=5), console=quiet)
    change = {"model.component_optims.first.params.peak_lr": 2e-2, "data.batch_size": 5}
    with pytest.raises(ConfigError) as refused:
        resume(tmp_path / "run", change, console=quiet)
    assert "model.component_optims.first.params.peak_lr: saved 0.01, now 0.02" in str(refused.value)
    assert "data.batch_size: saved 8, now 5" in str(refused.value)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=1000)
    train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, save_every=5), console=console)
    whole = files_of(tmp_path / "run" / "checkpoints" / "step_00000012")
    damaged = tmp_path / "run" / "checkpoints" / "step_00000012" / "first" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    resume(tmp_path / "run", console=console)
    assert "step_00000012/first/optimizer.safetensors: is not as it was written" in said.getvalue()
    assert "resuming after 10 of 12 updates" in said.getvalue()
    assert files_of(tmp_path / "run" / "checkpoints" / "step_00000012") == whole


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_taken_up_from_a_checkpoint(tmp_path, quiet, schedule):
    optim = {"type": "adamw", "params": {"schedule": {"type": schedule, **SCHEDULES[schedule]}}}
    for name in ("whole", "parts"):
        run = config(tmp_path / name, {"first": {"type": "normed"}}, {"first": optim}, save_every=5, eval_every=1)
        train(run, console=quiet)
    drop(tmp_path / "parts" / "checkpoints" / "step_00000012")
    resume(tmp_path / "parts", console=quiet)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_a_run_with_damaged_checkpoints_only_does_not_start_over(tmp_path, quiet):
    train(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}), console=quiet)
    (tmp_path / "run" / "checkpoints" / "step_00000012" / "trainer.json").unlink()
    before = files_of(tmp_path / "run")
    with pytest.raises(ConfigError, match="every checkpoint is damaged"):
        resume(tmp_path / "run", console=quiet)
    assert files_of(tmp_path / "run") == before


def test_a_resumed_run_does_not_need_what_it_was_initialised_from(tmp_path, quiet):
    train(config(tmp_path / "old", two(), {"first": ADAMW, "second": ADAMW}), console=quiet)
    source = tmp_path / "old" / "checkpoints" / "step_00000012" / "first"
    new = config(tmp_path / "new", two(init_from=str(source)), {"first": ADAMW, "second": ADAMW}, save_every=5)
    train(new, console=quiet)
    whole = files_of(tmp_path / "new" / "checkpoints" / "step_00000012")
    drop(tmp_path / "old")
    drop(tmp_path / "new" / "checkpoints" / "step_00000012")
    resume(tmp_path / "new", console=quiet)
    assert files_of(tmp_path / "new" / "checkpoints" / "step_00000012") == whole


def test_a_plugins_factory_of_the_bare_protocol_trains(tmp_path, quiet):
    optim = {"type": "sample_factory.Plain", "params": {"lr": 0.05}}
    result = train(config(tmp_path / "run", two(), {"first": optim, "second": ADAMW}, save_every=6), console=quiet)
    drop(tmp_path / "run" / "checkpoints" / "step_00000012")
    assert resume(tmp_path / "run", console=quiet).metrics == result.metrics
