"""`innerstep checkpoint convert` refuses files and arguments that do not fit, and writes nothing then."""

import os
import shutil

import pytest
import torch
from sample_conversions import (
    KINDS,
    QUIET,
    converted,
    make_pair,
    make_runs,
    policy_config,
    refused,
    written,
)
from sample_damage import flip
from sample_runs import config, two
from torch import nn

from trainer import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path / "plain")


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
