"""Components that start from another run: the state that is loaded, its names, and refusals."""

import shutil

import pytest
import torch
from conftest import files_of
from rich.console import Console
from safetensors.torch import load_file, save_file
from sample_runs import ADAMW, SCHEDULE_FREE, WARMUP, config, two

from trainer import ConfigError, load_config, train
from trainer.offline_trainer import OfflineTrainer


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of two components, `first` with an optimizer that has a schedule."""
    run = tmp_path_factory.mktemp("source") / "run"
    train(config(run, two(), {"first": WARMUP, "second": ADAMW}, save_every=5), console=Console(quiet=True))
    return run


def started(run_dir, init, optim=WARMUP, component="first", **components):
    """Return a trainer whose `component` starts from `init`, and what it printed."""
    console = Console(width=200)
    raw = config(run_dir, {**two(), **components}, {"first": WARMUP, "second": ADAMW, component: optim})
    raw["model"]["components"][component]["init_from"] = init
    with console.capture() as printed:
        trainer = OfflineTrainer(load_config(raw), console)
    return trainer, printed.get()


def weights(source, name="first", step=12):
    return load_file(source / f"checkpoints/step_{step:08d}" / name / "model.safetensors")


def same(component, tensors):
    return all(torch.equal(tensor, tensors[name]) for name, tensor in component.state_dict().items())


PATHS = {
    "the run": ("{run}", 12),
    "a checkpoint": ("{run}/checkpoints/step_00000005", 5),
    "the newest": ("{run}/checkpoints/latest", 12),
    "its folder": ("{run}/checkpoints/step_00000010/first", 10),
    "by name": ("{run}/checkpoints/step_00000010:first", 10),
    "a weights file": ("{run}/checkpoints/step_00000010/first/model.safetensors", 10),
}


@pytest.mark.parametrize("path", PATHS)
def test_weights_come_from_wherever_the_path_leads(tmp_path, source, path):
    text, step = PATHS[path]
    trainer, printed = started(tmp_path, text.format(run=source))
    assert same(trainer.components["first"], weights(source, step=step))
    assert "first: 7 of 7 tensors from" in printed
    assert trainer.optimizers["first"].scheduler.last_epoch == 0


def test_another_component_of_the_run(tmp_path, source):
    trainer, _ = started(tmp_path, f"{source}:second")
    assert same(trainer.components["first"], weights(source, "second"))


def test_a_component_of_an_exported_model(tmp_path, source):
    whole = {f"old.{name}": tensor for name, tensor in weights(source).items()}
    save_file({**whole, "other.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    trainer, _ = started(tmp_path / "run", f"{tmp_path / 'model.safetensors'}:old")
    assert same(trainer.components["first"], weights(source))


def test_weights_optimizer_and_schedule_go_on_as_in_the_run(tmp_path, source):
    """With everything taken over, and the other component as it was, the next update is that of the run."""
    init = {"path": f"{source}/checkpoints/step_00000005", "optimizer": True, "schedule": True}
    trainer, printed = started(tmp_path, init)
    optimizer = trainer.optimizers["first"]
    assert optimizer.scheduler.last_epoch == 5
    assert "first: the optimizer's state of 4 of 4 parameters from" in printed
    assert "first: its schedule continues at update 5" in printed
    saved = load_file(source / "checkpoints/step_00000005/first/optimizer.safetensors")
    for name, parameter in trainer.components["first"].named_parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], saved[f"{name}/exp_avg"])


@pytest.mark.parametrize("part", ["optimizer", "schedule"])
def test_each_part_alone(tmp_path, source, part):
    trainer, _ = started(tmp_path, {"path": str(source), "weights": False, part: True})
    optimizer = trainer.optimizers["first"]
    assert not same(trainer.components["first"], weights(source))
    assert bool(optimizer.state) == (part == "optimizer")
    assert optimizer.scheduler.last_epoch == (12 if part == "schedule" else 0)
    assert optimizer.param_groups[0]["lr"] == optimizer.scheduler.schedule.lr_at(optimizer.scheduler.last_epoch)


def test_the_options_stay_those_of_the_config(tmp_path, source):
    optim = {"type": "adamw", "params": {"lr": 7e-3, "betas": [0.5, 0.6], "weight_decay": 0.3, "no_decay": True}}
    trainer, _ = started(tmp_path, {"path": str(source), "optimizer": True}, optim)
    groups = trainer.optimizers["first"].param_groups
    assert [(group["lr"], group["betas"], group["weight_decay"]) for group in groups] == [
        (7e-3, (0.5, 0.6), 0.3),
        (7e-3, (0.5, 0.6), 0.0),
    ]
    assert all("exp_avg" in trainer.optimizers["first"].state[p] for group in groups for p in group["params"])


def test_a_schedule_free_component_goes_on_at_its_training_weights(tmp_path):
    run = tmp_path / "source"
    train(config(run, two(), {"first": SCHEDULE_FREE, "second": ADAMW}), console=Console(quiet=True))
    trainer, _ = started(tmp_path / "run", {"path": str(run), "optimizer": True}, SCHEDULE_FREE)
    optimizer = trainer.optimizers["first"]
    assert optimizer.param_groups[0]["train_mode"]
    assert optimizer.param_groups[0]["k"] == 12
    optimizer.eval()
    assert same(trainer.components["first"], weights(run))


def test_names_are_changed_by_rule(tmp_path, source):
    init = {"path": f"{source}:second", "optimizer": True, "rename": {"linear.*": "trained.*", "norm.*": "norm.*"}}
    init |= {"strict": False}
    trainer, printed = started(tmp_path, init, ADAMW, "third", third={"type": "partly_frozen"})
    third = trainer.components["third"].state_dict()
    assert torch.equal(third["trained.weight"], weights(source, "second")["linear.weight"])
    assert "third: 2 of 4 tensors from" in printed
    assert "not loaded, as it is not there: kept.bias, kept.weight" in printed
    assert "not used: norm.bias, norm.num_batches_tracked" in printed
    state = trainer.optimizers["third"].state
    assert [set(state[p]) for p in trainer.components["third"].trained.parameters()] == [
        {"step", "exp_avg", "exp_avg_sq"}
    ] * 2


def test_training_goes_on_from_parts_and_is_resumed_without_them(tmp_path, source):
    raw = config(tmp_path / "run", two(), {"first": WARMUP, "second": ADAMW}, save_every=6)
    raw["model"]["components"]["first"]["init_from"] = {"path": str(source), "optimizer": True}
    train(raw, console=Console(quiet=True))
    assert load_config(tmp_path / "run/config.yaml").model.components["first"].init_from.optimizer
    assert files_of(tmp_path / "run/checkpoints/step_00000012")


REFUSED = {
    "no such path": ("nowhere", "nowhere/model.safetensors: is missing. Give a run, a checkpoint"),
    "a component that it lacks": (
        "{run}:frist",
        "has no component 'frist'; did you mean 'first'? It has first, second",
    ),
    "a component of a component": ("{run}/checkpoints/step_00000012/first:first", "is one component's folder"),
    "a rule that matches nothing": (
        {"path": "{run}", "rename": {"linar.*": "x.*"}},
        "rename: 'linar.*' matches no name",
    ),
    "two of one name": (
        {"path": "{run}", "rename": {"linear.*": "norm.*"}},
        "rename: two tensors would be called 'norm.",
    ),
    "stars that do not go up": (
        {"path": "{run}", "rename": {"linear.*": "x"}},
        "init_from.rename.'linear.*': must have as many * as the name there; got 'x'",
    ),
    "nothing": ({"path": "{run}", "weights": False}, "init_from: loads nothing"),
    "a misspelt option": ({"path": "{run}", "optimiser": True}, "optimiser: unknown name; did you mean 'optimizer'?"),
    "nothing that fits": (
        {"path": "{run}", "strict": False, "rename": {"*": "x.*"}},
        "nothing of the weights fits",
    ),
    "names that do not fit": (
        {"path": "{run}", "rename": {"linear.*": "x.*"}},
        "missing: linear.bias, linear.weight; extra: x.bias, x.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(tmp_path, source, case):
    init, message = REFUSED[case]
    init = {"path": init} if isinstance(init, str) else init
    init = {**init, "path": init["path"].format(run=source)}
    with pytest.raises(ConfigError) as refusal:
        started(tmp_path, init)
    assert "model.components.first.init_from" in str(refusal.value)
    assert message in str(refusal.value)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(tmp_path, source, kind, strict):
    saved = weights(source)
    save_file({**saved, "linear.bias": saved["linear.bias"].to(kind)}, tmp_path / "first.safetensors")
    message = (
        rf"first.init_from: .*first.safetensors: the weights do not fit: .*linear.bias \(saved {kind}, here torch.f"
    )
    with pytest.raises(ConfigError, match=message):
        started(tmp_path / "run", {"path": str(tmp_path / "first.safetensors"), "strict": strict})


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path, source, kind):
    saved = {name: value.to(kind) if value.is_floating_point() else value for name, value in weights(source).items()}
    save_file(saved, tmp_path / "first.safetensors")
    trainer, _ = started(tmp_path / "run", str(tmp_path / "first.safetensors"))
    assert torch.equal(trainer.components["first"].linear.weight, saved["linear.weight"].float())


def test_a_frozen_component_has_no_optimizer_to_load(tmp_path, source):
    raw = config(tmp_path, two(), {"first": WARMUP, "second": ADAMW})
    raw["model"]["components"]["first"] |= {"freeze": True, "init_from": {"path": str(source), "schedule": True}}
    with pytest.raises(ConfigError, match=r"first.init_from: first is frozen and has no optimizer"):
        OfflineTrainer(load_config(raw), Console(quiet=True))


def test_damage_is_named_where_it_matters(tmp_path, source):
    copy = tmp_path / "step_00000012"
    shutil.copytree(source / "checkpoints" / copy.name, copy)
    (copy / "second" / "model.safetensors").write_bytes(b"damaged")
    started(tmp_path / "run", f"{copy}:first")
    with pytest.raises(ConfigError, match=r"second/model.safetensors: has 7 bytes, and was written with"):
        started(tmp_path / "run", f"{copy}:second")


def test_names_with_a_slash_keep_their_state(tmp_path):
    from torch import nn

    from optimizer import OPTIMIZER_BUILDER_REGISTRY, load_named_state, named_state
    from optimizer.state.named import rename_parameters, restrict_parameters

    module = nn.ModuleDict({"a/b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.1).build(module)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = rename_parameters(named_state(optimizer), lambda name: name)
    other = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.1).build(module)
    load_named_state(
        other, restrict_parameters(saved, [name for name, _ in module.named_parameters()], other), own_options=True
    )
    assert all(other.state[parameter]["step"] == 1 for parameter in module.parameters())


def test_the_state_of_another_class_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match=r"first.init_from: .*the saved state lacks square_avg, which .*RMSprop"):
        started(tmp_path, {"path": str(source), "optimizer": True}, {"type": "RMSprop", "params": {"lr": 1e-3}})
