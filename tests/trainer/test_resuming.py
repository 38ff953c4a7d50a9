"""A resume under another config: the saved values, the new ones, or the new curve where the lr is."""

import json
import re

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, PLATEAU, SCHEDULE_FREE, WARMUP, config, two

from trainer import ConfigError, load_config, resume, train

OPTIMS = {"first": WARMUP, "second": ADAMW}
OPTIM = "model.component_optims."


def trained(run, optims=OPTIMS, components=None, **options):
    options = {"save_every": 3, **options}
    train(config(run, components or two(), optims, **options), console=Console(quiet=True))
    return run


def resumed(run, overrides, step=6, on_change=None):
    console = Console(width=300)
    overrides = {**overrides, "resume.on_change": on_change}
    with console.capture() as printed:
        resume(run / f"checkpoints/step_{step:08d}", overrides, console=console)
    return printed.get()


def lrs(run, name="first"):
    return [line[f"lr/{name}"] for line in metrics_of(run) if line["split"] == "train"]


def last(run, step=12):
    return files_of(run / f"checkpoints/step_{step:08d}")


def test_without_a_word_it_stops_with_the_differences_and_the_ways(tmp_path):
    run = trained(tmp_path / "run")
    before = files_of(run)
    with pytest.raises(ConfigError) as refusal:
        resumed(run, {f"{OPTIM}second.params.lr": 5e-3, "train.precision": "bf16", "seed": 3})
    for line in (
        "  seed: saved 0, now 3",
        "train.precision: saved 'fp32', now 'bf16'",
        f"{OPTIM}second.params.lr: saved 0.01, now 0.005",
        "--resume.on_change=keep",
        "override",
        "rescale",
    ):
        assert line in str(refusal.value)
    assert files_of(run) == before


def test_keep_goes_on_as_if_nothing_had_been_changed(tmp_path):
    whole, run = trained(tmp_path / "whole"), trained(tmp_path / "run")
    changed = {f"{OPTIM}second.params.lr": 5e-3, "train.precision": "bf16", "seed": 3, "data.batch_size": 4}
    changed[f"{OPTIM}first"] = {"type": "sgd", "params": {"lr": 1.0}}
    resumed(run, changed, on_change="keep")
    assert last(run) == last(whole)
    assert metrics_of(run) == metrics_of(whole)
    written = load_config(run / "config.yaml")
    assert written.model.component_optims["first"].type == WARMUP["type"]
    assert (written.seed, written.train.precision, written.resume.on_change) == (0, "fp32", None)
    resume(run / "checkpoints/step_00000009", console=Console(quiet=True))
    assert last(run) == last(whole)


def test_keep_lets_the_curves_end_where_they_did(tmp_path):
    whole, run = trained(tmp_path / "whole"), trained(tmp_path / "run")
    resumed(run, {"train.total_steps": 15}, on_change="keep")
    assert lrs(run) == lrs(whole) + [lrs(whole)[-1]] * 3


def test_override_takes_the_new_values_at_the_old_position(tmp_path):
    run = trained(tmp_path / "run")
    before = lrs(run)
    changed = {"peak_lr": 2e-2, "betas": [0.5, 0.9], "weight_decay": 0.5}
    printed = resumed(run, {f"{OPTIM}first.params.{name}": value for name, value in changed.items()}, 6, "override")
    assert f"{OPTIM}first.params.peak_lr: saved 0.01, now 0.02" in printed
    written = load_config(run / "config.yaml")
    curve = written.model.component_optims["first"].factory.resolved(written.train.horizon(5)).curve
    assert lrs(run) == before[:6] + [curve.lr_at(k) for k in range(6, 12)]
    from trainer.offline_trainer import OfflineTrainer

    trainer = OfflineTrainer(written, Console(quiet=True), resumed=True)
    trainer.restore(run / "checkpoints/step_00000012")
    group = trainer.optimizers["first"].param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.9), 0.5)
    assert all(trainer.optimizers["first"].state[p]["step"] == 12 for p in group["params"])


def test_rescale_goes_on_without_a_jump_and_ends_with_the_run(tmp_path):
    run = trained(tmp_path / "run")
    before = lrs(run)
    printed = resumed(run, {"train.total_steps": 24}, on_change="rescale")
    after = lrs(run)
    rescaled = r"^first: lr continues at (\S+): rescaled, its schedule is entered at step (\d+)$"
    (lr, position), *_ = re.findall(rescaled, printed, re.MULTILINE)
    assert (lr, int(position)) == (f"{after[6]:.3g}", 10), "after a third of the decay, as before"
    assert after[:6] == before[:6]
    assert len(after) == 24
    steps = [abs(after[k + 1] - after[k]) for k in range(4, 23)]
    assert max(steps) < 1.2 * max(abs(before[k + 1] - before[k]) for k in range(3, 11))
    assert after[-1] == pytest.approx(before[-1])
    assert sorted(after[6:], reverse=True) == after[6:]
    resume(run / "checkpoints/step_00000015", console=Console(quiet=True))
    assert lrs(run) == after, "and a resume of that needs no word"


def test_rescale_through_a_kill_is_the_same_run(tmp_path):
    whole, run = trained(tmp_path / "whole"), trained(tmp_path / "run")
    for one in (whole, run):
        resumed(one, {"train.total_steps": 24}, on_change="rescale")
    resume(run / "checkpoints/step_00000018", console=Console(quiet=True))
    assert last(run, 24) == last(whole, 24)


def test_a_lower_peak_than_the_present_lr_cannot_be_entered(tmp_path):
    run = trained(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"{OPTIM}first: resume.on_change=rescale: lr: .* never comes within 1%"):
        resumed(run, {f"{OPTIM}first.params.peak_lr": 1e-3}, on_change="rescale")


def test_what_metrics_move_cannot_be_entered_but_overridden(tmp_path):
    run = trained(tmp_path / "run", {"first": PLATEAU, "second": ADAMW}, eval_every=2)
    changed = {f"{OPTIM}first.params.lr": 5e-3}
    with pytest.raises(ConfigError, match=r"resume.on_change=rescale: the schedule is moved by metrics"):
        resumed(run, changed, on_change="rescale")
    before = lrs(run)
    resumed(run, changed, on_change="override")
    assert lrs(run)[6] == pytest.approx(before[6] / 2)


def test_an_optimizer_of_another_class_starts_anew_at_the_position(tmp_path):
    run = trained(tmp_path / "run")
    curve = {"type": "cosine", "num_warmup_steps": 0, "num_training_steps": 12}
    sgd = {"type": "sgd", "params": {"lr": 0.1, "momentum": 0.9, "schedule": curve}}
    printed = resumed(run, {f"{OPTIM}second": sgd}, on_change="override")
    assert "second: its optimizer starts again, with its schedule at update 6" in printed
    assert lrs(run, "second")[6] == pytest.approx(0.05)
    state = load_file(run / "checkpoints/step_00000012/second/optimizer.safetensors")
    assert {path.rsplit("/")[-1] for path in state} == {"momentum_buffer"}


def test_a_component_that_thaws(tmp_path):
    components = {"first": {"type": "normed", "freeze": True}, "second": {"type": "normed"}}
    run = trained(tmp_path / "run", components=components)
    frozen = load_file(run / "checkpoints/step_00000006/first/model.safetensors")
    with pytest.raises(ConfigError, match=rf"{OPTIM}first.type: saved None, now 'adamw_warmup"):
        resumed(run, {"model.components.first.freeze": False})
    printed = resumed(run, {"model.components.first.freeze": False}, on_change="override")
    assert "first: its optimizer starts again, with its schedule at update 6" in printed
    thawed = load_file(run / "checkpoints/step_00000012/first/model.safetensors")
    assert not torch.equal(frozen["linear.weight"], thawed["linear.weight"])


def test_a_schedule_free_component_keeps_its_average_under_another_lr(tmp_path):
    run = trained(tmp_path / "run", {"first": SCHEDULE_FREE, "second": ADAMW})
    resumed(run, {f"{OPTIM}first.params.lr": 0.05}, on_change="override")
    assert lrs(run)[5:7] == [0.1, 0.05]
    values = json.loads((run / "checkpoints/step_00000012/first/optimizer.json").read_text())
    assert (values["param_groups"][0]["k"], values["param_groups"][0]["lr"]) == (12, 0.05)


def test_groups_may_change_when_the_new_values_hold(tmp_path):
    run = trained(tmp_path / "run")
    resumed(run, {f"{OPTIM}second.params.no_decay": True}, on_change="override")
    values = json.loads((run / "checkpoints/step_00000012/second/optimizer.json").read_text())
    assert [group["weight_decay"] for group in values["param_groups"]] == [0.01, 0.0]


def test_a_word_that_is_none(tmp_path):
    run = trained(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"resume.on_change: must be 'keep', 'override' or 'rescale'"):
        resumed(run, {}, on_change="restart")


def test_a_component_that_the_checkpoint_lacks(tmp_path):
    run = trained(tmp_path / "run")
    added = {"model.components.third": {"type": "normed"}, f"{OPTIM}third": ADAMW}
    with pytest.raises(ConfigError, match=r"step_00000006: has no component 'third'"):
        resumed(run, added, on_change="override")


MISSED = {
    "the held-out part": ("data.params.held_out", 9, "data.params.held_out: saved None, now 9"),
    "the last batch": ("data.drop_last", True, "data.drop_last: saved False, now True"),
    "a component": (
        "model.components.first.params.dropout",
        0.5,
        "components.first.params.dropout: saved 0.3, now 0.5",
    ),
    "the objective": ("train.objective.params", {"width": 3}, "train.objective.params.width: saved None, now 3"),
}


@pytest.mark.parametrize("case", MISSED)
def test_whatever_makes_the_training_what_it_is_cannot_change_unnoticed(tmp_path, monkeypatch, case):
    import sample_parts

    monkeypatch.setattr(sample_parts.Regression, "__init__", lambda self, width=4: None)
    path, value, message = MISSED[case]
    with pytest.raises(ConfigError, match=message):
        resumed(trained(tmp_path / "run"), {path: value})


def test_keep_keeps_data_and_components_too(tmp_path):
    components = {"first": {"type": "normed", "freeze": True}, "second": {"type": "normed"}}
    whole, run = (trained(tmp_path / name, components=components) for name in ("whole", "run"))
    changed = {"data.drop_last": True, "data.params.held_out": 9, "model.components.first.freeze": False}
    resumed(run, changed, on_change="keep")
    assert last(run) == last(whole)


@pytest.mark.parametrize(("optimizer", "option"), [("adamw", {"amsgrad": True}), ("RMSprop", {"momentum": 0.9})])
def test_an_option_that_needs_a_state_which_is_not_there_is_refused(tmp_path, optimizer, option):
    run = trained(tmp_path / "run", {"first": {"type": optimizer, "params": {"lr": 1e-3}}, "second": ADAMW})
    before = files_of(run)
    with pytest.raises(
        ConfigError, match=r"first/optimizer.json: the saved state lacks (max_exp_avg_sq|momentum_buffer)"
    ):
        resumed(run, {f"{OPTIM}first.params.{name}": value for name, value in option.items()}, on_change="override")
    assert files_of(run) == before


def test_a_kill_before_the_next_checkpoint_does_not_ask_again(tmp_path, monkeypatch):
    from trainer.checkpoint.manager import CheckpointManager

    class KilledError(BaseException):
        pass

    def killed(self, *arguments):
        raise KilledError

    whole, run = (trained(tmp_path / name) for name in ("whole", "run"))
    resumed(whole, {"train.total_steps": 24}, on_change="rescale")
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", killed)
        with pytest.raises(KilledError):
            resumed(run, {"train.total_steps": 24}, on_change="rescale")
    resume(run, console=Console(quiet=True))
    assert last(run, 24) == last(whole, 24)
    with pytest.raises(ConfigError, match="differs"):  # but another change is another question
        resumed(run, {f"{OPTIM}second.params.lr": 0.5}, step=24)


def test_where_nothing_differs_it_says_so(tmp_path):
    assert "what differs from the checkpoint:\n  nothing" in resumed(trained(tmp_path / "run"), {}, on_change="rescale")
