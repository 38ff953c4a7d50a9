"""`innerstep checkpoint convert`: after a conversion and back, training continues as if there had been none."""

import io
import json
import os

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file, save_model
from sample_damage import flip
from sample_lerobot_files import lerobots_files
from sample_runs import config, two
from schedulefree import RAdamScheduleFree
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from trainer import train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(file=io.StringIO())
LINEAR = {"type": "linear", "num_training_steps": 50}
KINDS = {
    "adamw": {"type": "adamw", "params": {"lr": 1e-2, "schedule": LINEAR}},
    "sgd": {"type": "sgd", "params": {"lr": 1e-2, "momentum": 0.9, "schedule": LINEAR}},
    "schedule_free": {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}},
}
COMPONENTS = {
    "first": {"type": "normed"},
    "second": {"type": "partly_frozen"},
    "third": {"type": "normed", "freeze": True},
}


def written(path, raw):
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of 7 updates, by the kind of their two optimizers, with their configs as files."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for kind, optim in KINDS.items():
        torch.manual_seed(0)
        raw = config(folder / kind, COMPONENTS, {"first": optim, "second": optim}, total_steps=7)
        train(raw, console=QUIET)
        made[kind] = folder / kind, written(folder / f"{kind}.yaml", raw)
    return made


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


def converted(cli, *arguments):
    code, printed = cli("checkpoint", "convert", *arguments)
    assert code == 0, printed
    return printed


def refused(cli, message, *arguments, out):
    code, printed = cli("checkpoint", "convert", *arguments)
    assert (code, message in printed, "Traceback" in printed) == (2, True, False), printed
    assert not out.exists()
    assert not list(out.parent.glob(".*unfinished"))


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


def normed():
    from sample_parts import Normed

    return Normed()


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


def two_objects(module, options=None):
    optimizer = torch.optim.AdamW(module.parameters() if options is None else options, lr=1e-2, fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 50))


def updates(module, optimizer, scheduler, steps):
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        (module(x) - x.cumsum(1)).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


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


@pytest.fixture
def pair(tmp_path):
    """A module in a plain loop of two objects, after 7 updates, and what it saved."""
    module = normed()
    optimizer, scheduler = two_objects(module)
    updates(module, optimizer, scheduler, range(7))
    folder = tmp_path / "plain"
    folder.mkdir()
    torch.save(module.state_dict(), folder / "policy.pt")
    torch.save({**optimizer.state_dict(), "scheduler": scheduler.state_dict()}, folder / "policy_opt.pt")
    return module, optimizer, scheduler, folder


def policy_config(tmp_path, **changed):
    optim = {"type": "adamw", "params": {"lr": 1e-2, "schedule": LINEAR}}
    return config(tmp_path / "run", {"policy": {"type": "normed", **changed}}, {"policy": optim})


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


class Planted:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("file", ["policy.pt", "policy_opt.pt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused(cli, tmp_path, pair, file, legacy):
    folder, trap = pair[-1], tmp_path / "trap"
    torch.save({"weight": Planted(trap)}, folder / file, _use_new_zipfile_serialization=not legacy)
    refused(
        cli,
        f"{folder / file}: cannot be read without running code",
        folder,
        tmp_path / "out",
        "--to",
        "innerstep",
        out=tmp_path / "out",
    )
    assert not trap.exists()
    torch.load(folder / file, weights_only=False)
    assert trap.exists(), "the trap is none"


def spoil(change):
    def edit(folder):
        state = torch.load(folder / "policy_opt.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "policy_opt.pt")

    return edit


def several(state):
    (group,) = state["param_groups"]
    state["param_groups"] = [{**group, "params": [0, 1]}, {**group, "params": [2, 3]}]


def transposed(state):
    state["state"][0]["exp_avg"] = torch.ones(4, 5)


def misnamed(state):
    state["param_groups"][0]["param_names"] = ["linear.weight", "linear.bias", "norm.weight", "norm.weights"]


MISFITS = {
    "several groups without names": (
        spoil(several),
        "has 2 parameter groups and no names: which parameter is in which",
    ),
    "a shape that does not fit": (spoil(transposed), "exp_avg of linear.weight has shape [4, 5], the parameter [4, 4]"),
    "names that are not there": (spoil(misnamed), "norm.weights is not among the weights"),
    "another number of parameters": (
        spoil(lambda state: state["param_groups"][0]["params"].pop()),
        "has 3 parameters; the config's component trains 4: linear.weight, linear.bias, norm.weight, norm.bias",
    ),
    "no groups": (
        spoil(lambda state: state.pop("param_groups")),
        "policy_opt.pt: is not an optimizer's state dict: it lacks param_groups",
    ),
    "no position": (
        spoil(lambda state: state["scheduler"].update(last_epoch=-1)),
        "the scheduler's last_epoch must be a whole number >= 0; got -1",
    ),
    "a file cut short": (
        lambda folder: (folder / "policy_opt.pt").write_bytes(b"\x80"),
        "policy_opt.pt: cannot be read",
    ),
    "no weights": (lambda folder: (folder / "policy.pt").unlink(), "policy.pt: is missing"),
    "weights that are none": (
        lambda folder: torch.save({"epoch": 3}, folder / "policy.pt"),
        "is not a module's state dict",
    ),
    "other weights": (
        lambda folder: torch.save(nn.Linear(4, 4).state_dict(), folder / "policy.pt"),
        "the weights do not fit the config's component: missing: linear.bias",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused(cli, tmp_path, pair, misfit):
    edit, message = MISFITS[misfit]
    edit(pair[-1])
    path = written(tmp_path / "config.yaml", policy_config(tmp_path))
    arguments = [pair[-1], tmp_path / "out", "--to", "innerstep", "--config", path]
    refused(cli, message, *arguments, out=tmp_path / "out")


def test_mistakes_in_the_command_are_named(cli, tmp_path, pair, runs):
    folder, out, run = pair[-1], tmp_path / "out", runs["adamw"][0]
    path = written(tmp_path / "config.yaml", policy_config(tmp_path))
    for message, arguments in {
        "--to: must be innerstep, lerobot, torch; got 'torhc'; did you mean 'torch'?": [folder, out, "--to", "torhc"],
        "is of torch; it can be converted to innerstep, not lerobot": [folder, out, "--to", "lerobot"],
        "is of innerstep; it can be converted to lerobot or torch": [run, out, "--to", "innerstep"],
        "goes by position and has no names. Give the config": [folder, out, "--to", "innerstep"],
        "holds nothing to convert": [tmp_path, out, "--to", "innerstep"],
        "has no component 'polcy'; did you mean 'policy'?": [folder, out, "--to", "innerstep", "--component", "polcy"],
        "has no component 'frist'; did you mean 'first'?": [run, out, "--to", "torch", "--component", "frist"],
        f"there is no directory {out}": [run, out / "deeper", "--to", "torch"],
    }.items():
        refused(cli, message, *arguments, out=out)
    (folder / "policy.pt").rename(folder / "other.pt")
    (folder / "policy_opt.pt").rename(folder / "other_opt.pt")
    refused(cli, "--config: has no component 'other'", folder, out, "--to", "innerstep", "--config", path, out=out)
    code, printed = cli("checkpoint", "convert", run, folder, "--to", "torch")
    assert (code, "is there already" in printed) == (2, True)


@pytest.mark.parametrize("name", [".", ".."])
def test_files_without_a_name_that_a_folder_can_have_are_no_components(cli, tmp_path, name):
    (tmp_path / "source").mkdir()
    torch.save({"weight": torch.ones(2)}, tmp_path / f"source/{name}.pt")
    refused(
        cli,
        "holds nothing to convert",
        tmp_path / "source",
        tmp_path / "out",
        "--to",
        "innerstep",
        out=tmp_path / "out",
    )
    torch.save({"weight": torch.ones(2)}, tmp_path / "source/head.pt")
    converted(cli, tmp_path / "source", tmp_path / "out", "--to", "innerstep")
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["head"]


def test_damage_is_not_converted(cli, tmp_path, runs):
    import shutil

    run = shutil.copytree(runs["adamw"][0], tmp_path / "run")
    flip(run / "checkpoints/step_00000007/first/optimizer.safetensors")
    for source in (run, run / "checkpoints/step_00000007/first"):
        message = "first/optimizer.safetensors: is not as it was written"
        refused(cli, message, source, tmp_path / "out", "--to", "torch", out=tmp_path / "out")
    converted(cli, run / "checkpoints/step_00000007/second", tmp_path / "out", "--to", "torch")


def test_an_optimizer_of_several_classes_stays_here(cli, tmp_path):
    muon = {"type": "muon", "params": {"lr": 1e-2, "fallback": {"type": "adamw"}}}
    train(config(tmp_path / "run", two(), {"first": muon, "second": KINDS["adamw"]}, total_steps=2), console=QUIET)
    refused(
        cli,
        "its optimizer is of several classes",
        tmp_path / "run",
        tmp_path / "out",
        "--to",
        "torch",
        out=tmp_path / "out",
    )
