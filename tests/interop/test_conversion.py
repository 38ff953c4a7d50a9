"""`innerstep checkpoint convert`: after a conversion and back, training continues as if there had been none."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from sample_conversions import (
    COMPONENTS,
    KINDS,
    QUIET,
    converted,
    make_pair,
    make_runs,
    normed,
    policy_config,
    two_objects,
    updates,
    written,
)
from sample_lerobot_files import lerobots_files
from sample_runs import config
from schedulefree import RAdamScheduleFree
from torch.optim.lr_scheduler import LambdaLR

from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path / "plain")


def onward(source, kind, tmp_path, step=None):
    """Train on for 7 updates, which `step` makes, from what `source` names by component; return weights and state."""
    components = {
        name: {
            **raw,
            "init_from": {"path": str(source(name)), "optimizer": name != "third", "schedule": name != "third"},
        }
        for name, raw in COMPONENTS.items()
    }
    raw = config(tmp_path / "next", components, {"first": KINDS[kind], "second": KINDS[kind]}, total_steps=14)
    torch.manual_seed(0)
    trainer = OfflineTrainer(load_config(raw), QUIET)
    for name in ("first", "second"):
        (step or updates)(trainer.components[name].train(), trainer.optimizers[name], None, range(7))
    weights = {
        f"{name}.{key}": value for name, part in trainer.components.items() for key, value in part.state_dict().items()
    }
    states = {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()}
    return weights, {
        name: (state["scheduler"], state["state"], state["param_groups"]) for name, state in states.items()
    }


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("kind", KINDS)
def test_to_torch_and_back_training_goes_on_to_the_bit(cli, runs, tmp_path, kind):
    run, _ = runs[kind]
    printed = converted(cli, run, tmp_path / "torch", "--to", "torch")
    assert "first.pt: 7 tensors, the optimizer's state of 4 parameters, after 7 updates" in printed
    names = ["first.pt", "first_opt.pt", "second.pt", "second_opt.pt", "third.pt"]
    assert sorted(file.name for file in (tmp_path / "torch").iterdir()) == names
    converted(cli, tmp_path / "torch", tmp_path / "back", "--to", "innerstep")
    direct = onward(lambda name: run, kind, tmp_path)
    assert same(direct, onward(lambda name: tmp_path / "back" / name, kind, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_to_lerobot_and_back_training_goes_on_to_the_bit(cli, runs, tmp_path, kind):
    run, path = runs[kind]
    converted(cli, run, tmp_path / "lerobot", "--to", "lerobot")
    (tmp_path / "back").mkdir()
    for name in ("first", "second"):
        source, out = tmp_path / "lerobot" / name, tmp_path / "back" / name
        converted(cli, source, out, "--to", "innerstep", "--config", path, "--component", name)
    places = {"first": tmp_path / "back/first/first", "second": tmp_path / "back/second/second", "third": run}
    assert same(onward(lambda name: run, kind, tmp_path), onward(places.get, kind, tmp_path))


BARE = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0),
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "schedule_free": RAdamScheduleFree,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bare_class_takes_torchs_files(cli, runs, tmp_path, kind):
    converted(cli, runs[kind][0], tmp_path / "torch", "--to", "torch", "--component", "first")
    module = normed()
    module.load_state_dict(torch.load(tmp_path / "torch/first.pt", weights_only=True))
    bare = BARE[kind](module.parameters())
    state = torch.load(tmp_path / "torch/first_opt.pt", weights_only=True)
    assert state["scheduler"] == {"last_epoch": 7}
    own = {*bare.param_groups[0], "param_names", "initial_lr"}
    assert set(state["param_groups"][0]) == own
    saved = load_file(runs[kind][0] / "checkpoints/step_00000007/first/optimizer.safetensors")
    entry = {"adamw": "exp_avg", "sgd": "momentum_buffer", "schedule_free": "z"}[kind]
    assert torch.equal(state["state"][0][entry], saved[f"linear.weight/{entry}"])
    bare.load_state_dict(state)
    if kind == "schedule_free":
        bare.train()
    module(torch.ones(3, 4)).sum().backward()
    bare.step()


def lerobots_load(optimizer, scheduler, folder):
    """Load as LeRobot's load_optimizer_state and load_scheduler_state do (lerobot/optim, lerobot/utils/io_utils)."""

    def filled(target, source):
        if isinstance(target, dict):
            assert isinstance(source, dict)
            assert target.keys() == source.keys()
            return {key: filled(target[key], source[key]) for key in target}
        if isinstance(target, list | tuple):
            assert isinstance(source, list)
            assert len(target) == len(source)
            return type(target)(map(filled, target, source))
        assert type(target) is type(source)
        return source

    state = {}
    for path, tensor in load_file(folder / "optimizer_state.safetensors").items():
        kind, position, entry = path.split("/")
        assert kind == "state"
        state.setdefault(int(position), {})[entry] = tensor
    groups = filled(
        optimizer.state_dict()["param_groups"], json.loads((folder / "optimizer_param_groups.json").read_text())
    )
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    scheduler.load_state_dict(filled(scheduler.state_dict(), json.loads((folder / "scheduler_state.json").read_text())))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_lerobot_reads_its_files_and_goes_on_like_ours(cli, runs, tmp_path, kind):
    run, _ = runs[kind]
    converted(cli, run, tmp_path / "lerobot", "--to", "lerobot", "--component", "first")
    module = normed()
    module.load_state_dict(load_file(tmp_path / "lerobot/first/model.safetensors"))
    options = {} if kind == "adamw" else {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0}  # LeRobot's SGDConfig
    classes = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    theirs = classes[kind](module.parameters(), lr=1e-2, **options)
    scheduler = LambdaLR(theirs, lambda step: max(0.0, 1 - step / 50))
    lerobots_load(theirs, scheduler, tmp_path / "lerobot" / "first")
    assert theirs.param_groups[0]["lr"] == pytest.approx(1e-2 * 43 / 50)
    updates_by_given_gradients(module, theirs, scheduler, range(7))
    weights, _ = onward(lambda name: run, kind, tmp_path, updates_by_given_gradients)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, weights[f"first.{name}"], rtol=1e-5, atol=1e-7)


def updates_by_given_gradients(module, optimizer, scheduler, steps):
    """Make updates that are determined.

    In front of BatchNorm the gradient of a bias is 0 but for rounding, which differs between implementations and
    processors, and Adam makes full steps of it.
    """
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


def goes_on(tmp_path, folder, module, optimizer, scheduler):
    source = {"path": str(folder / "policy"), "optimizer": True, "schedule": True}
    trainer = OfflineTrainer(load_config(policy_config(tmp_path, init_from=source)), QUIET)
    ours = trainer.components["policy"]
    assert trainer.optimizers["policy"].scheduler.last_epoch == 7
    updates(module, optimizer, scheduler, range(7, 20))
    updates(ours.train(), trainer.optimizers["policy"], None, range(7, 20))
    assert same(dict(module.state_dict()), dict(ours.state_dict()))


def test_a_plain_loop_of_two_objects_goes_on_as_one_to_the_bit(cli, tmp_path, pair):
    module, optimizer, scheduler, folder = pair
    path = written(tmp_path / "config.yaml", policy_config(tmp_path))
    converted(cli, folder, tmp_path / "out", "--to", "innerstep", "--config", path)
    goes_on(tmp_path, tmp_path / "out", module, optimizer, scheduler)


def test_a_lerobot_checkpoint_goes_on_to_the_bit(cli, tmp_path, pair):
    module, optimizer, scheduler, _ = pair
    (tmp_path / "005000/training_state").mkdir(parents=True)
    (tmp_path / "005000/pretrained_model").mkdir()
    lerobots_files(optimizer, scheduler, tmp_path / "005000/training_state")
    save_file(dict(module.state_dict()), tmp_path / "005000/pretrained_model/model.safetensors")
    path = written(tmp_path / "config.yaml", policy_config(tmp_path))
    for number, source in enumerate(("005000", "005000/training_state")):
        converted(cli, tmp_path / source, tmp_path / f"out{number}", "--to", "innerstep", "--config", path)
        assert sorted(file.name for file in (tmp_path / f"out{number}/policy").iterdir()) == [
            "model.safetensors",
            "optimizer.json",
            "optimizer.safetensors",
        ]
    goes_on(tmp_path, tmp_path / "out1", module, optimizer, scheduler)


def test_shared_weights_that_safetensors_left_out_come_back(cli, tmp_path):
    from sample_parts import Tied

    module = Tied()
    optimizer, scheduler = two_objects(module)
    updates(module, optimizer, scheduler, range(2))
    (tmp_path / "saved").mkdir()
    lerobots_files(optimizer, scheduler, tmp_path / "saved")
    module.last_steps = module.last_steps.clone()  # of a buffer in another's memory it saves no part
    save_model(module, str(tmp_path / "saved/model.safetensors"))
    path = written(
        tmp_path / "config.yaml", config(tmp_path / "run", {"tied": {"type": "tied"}}, {"tied": {"type": "adamw"}})
    )
    converted(cli, tmp_path / "saved", tmp_path / "out", "--to", "innerstep", "--config", path)
    saved = load_file(tmp_path / "out/tied/model.safetensors")
    assert same(saved, dict(module.state_dict()))


def test_names_in_the_groups_need_no_config_and_may_be_in_several(cli, tmp_path, pair):
    module, _, _, folder = pair
    named = list(module.named_parameters())
    optimizer = torch.optim.AdamW([{"params": named[2:], "lr": 1.0}, {"params": named[:2]}], betas=(0.5, 0.6))
    updates(module, optimizer, None, range(1))
    torch.save(optimizer.state_dict(), folder / "policy_opt.pt")
    torch.save(module.state_dict(), folder / "policy.pt")
    printed = converted(cli, folder, tmp_path / "out", "--to", "innerstep")
    assert "at no position of a schedule" in printed
    saved = load_file(tmp_path / "out/policy/optimizer.safetensors")
    for name, parameter in named:
        assert torch.equal(saved[f"{name}/exp_avg"], optimizer.state[parameter]["exp_avg"])
    values = json.loads((tmp_path / "out/policy/optimizer.json").read_text())
    assert [group["param_names"] for group in values["param_groups"]] == [
        ["norm.weight", "norm.bias"],
        ["linear.weight", "linear.bias"],
    ]
    assert "scheduler" not in values


def test_frozen_parameters_that_a_loop_hands_over_too_are_matched(cli, tmp_path):
    from sample_parts import PartlyFrozen

    module = PartlyFrozen()
    optimizer, scheduler = two_objects(module)
    updates(module, optimizer, scheduler, range(2))
    torch.save(module.state_dict(), tmp_path / "policy.pt")
    torch.save(optimizer.state_dict(), tmp_path / "policy_opt.pt")
    raw = config(tmp_path / "run", {"policy": {"type": "partly_frozen"}}, {"policy": {"type": "adamw"}})
    converted(cli, tmp_path, tmp_path / "out", "--to", "innerstep", "--config", written(tmp_path / "config.yaml", raw))
    saved = load_file(tmp_path / "out/policy/optimizer.safetensors")
    assert {name.split("/")[0] for name in saved} == {"trained.weight", "trained.bias"}
