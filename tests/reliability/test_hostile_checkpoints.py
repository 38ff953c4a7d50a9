"""A checkpoint made to do harm, with checksums that are right, does nothing but raise a clear error."""

import io
import json
import os
import pickle
import shutil

import faults
import mutations
import pytest
import torch
from conftest import needs
from rich.console import Console

from optimizer import OPTIMIZER_BUILDER_REGISTRY, NamedState, StateMismatchError, load_named_state, named_state
from optimizer.state.named_loading import _merge_additions
from trainer import ConfigError, resume, train

QUIET = Console(file=io.StringIO())
LAST = "checkpoints/step_00000002"
CALLED = []


def harm(*arguments):
    CALLED.append(arguments)
    return 1.0


class Harmful:
    def __reduce__(self):
        return harm, ("unpickled",)


PICKLE = pickle.dumps(Harmful())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("hostile") / "run"
    train(faults.config(run, total_steps=4, save_every=2, eval_every=2), console=QUIET)
    shutil.rmtree(run / "checkpoints" / "step_00000004")
    return run


@pytest.fixture
def run(whole, tmp_path):
    CALLED.clear()
    yield shutil.copytree(whole, tmp_path / "run")
    assert CALLED == []


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def refused(cli, run, *options):
    code, printed = cli("resume", run, *options)
    assert code == 2, printed
    assert "Traceback" not in printed
    return printed


def test_the_pickle_of_these_tests_runs_code():
    pickle.loads(PICKLE)
    assert CALLED == [("unpickled",)]
    CALLED.clear()


FILES = ["trainer.json", "rng.safetensors", "manifest.json", *(f"first/{name}" for name in (
    "model.safetensors", "optimizer.safetensors", "optimizer.json"))]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_a_pickle_under_a_files_name_is_not_read(cli, run, file, kind):
    path = run / LAST / file
    path.write_bytes(PICKLE) if kind == "pickle" else torch.save(Harmful(), path)
    mutations.seal(run / LAST)
    assert str(path) in refused(cli, run)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "optimizer.json"])
def test_nor_is_it_when_another_run_starts_from_it(cli, run, tmp_path, file):
    (run / LAST / "first" / file).write_bytes(PICKLE)
    mutations.seal(run / LAST)
    raw = faults.config(tmp_path / "new")
    source = {"path": str(run / LAST), "optimizer": True, "schedule": True}
    raw["model"]["components"] = {**faults.COMPONENTS, "first": {"type": "normed", "init_from": source}}
    (tmp_path / "new.json").write_text(json.dumps(raw))
    code, printed = cli("train", tmp_path / "new.json")
    assert code == 2, printed
    assert f"first/{file}: " in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "new").exists()


def put(*place, value):
    def edit(values):
        for key in place[:-1]:
            values = values[key]
        values[place[-1]] = value

    return edit


GROUP = ("param_groups", 0)
VALUES = {
    "a module for a dtype": put("state", "linear.bias", value={"x": {"torch_dtype": "os"}}),
    "a function for a dtype": put("state", "linear.bias", value={"x": {"torch_dtype": "load"}}),
    "a scalar of a function": put(*GROUP, "lr", value={"scalar": 1.0, "dtype": "torch.load"}),
    "a scalar of a path": put(*GROUP, "lr", value={"scalar": 1.0, "dtype": "os.system"}),
    "a scalar of nothing": put(*GROUP, "lr", value={"scalar": 1.0, "dtype": None}),
    "an option of another type": put(*GROUP, "lr", value="fast"),
    "another kind of outline": put("state", "linear.bias", value={"x": {"class": "os.system"}}),
    "two kinds at once": put("state", "linear.bias", value={"x": {"list": [], "dict": []}}),
    "state of no parameter": put("state", "linear.nothing", value={"x": 1}),
    "a tensor that is not there": put("state", "linear.bias", value={"x": {"tensor": "elsewhere"}}),
    "groups without names": put("param_groups", value=[{"lr": 1.0}]),
    "groups that are none": put("param_groups", value="all"),
    "no state": put("state", value=[]),
    "shapes that are none": put("shapes", value={"linear.bias": "large"}),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.filterwarnings("ignore")
def test_values_that_are_no_state_are_refused(cli, run, name):
    path = run / LAST / "first" / "optimizer.json"
    values = json.loads(path.read_text())
    VALUES[name](values)
    path.write_text(json.dumps(values))
    mutations.seal(run / LAST)
    assert str(path) in refused(cli, run)


def nest(run, file, levels):
    """Put an entry of so many levels into a file of a checkpoint."""
    path = run / LAST / file
    nested = '{"list": [' * levels + "1" + "]}" * levels
    path.write_text(path.read_text().replace("{", '{"state": {"linear.bias": {"x": ' + nested + "}},", 1))
    if file != "manifest.json":
        mutations.seal(run / LAST)


FILES = ["manifest.json", "trainer.json", "first/optimizer.json"]


@pytest.mark.parametrize("levels", [5000, 100_000])
@pytest.mark.parametrize("file", FILES)
def test_huge_nesting_is_refused(cli, run, file, levels):
    nest(run, file, levels)
    assert cli("resume", run)[0] == 2


@pytest.mark.parametrize("levels", [490, 700])
@pytest.mark.parametrize("file", FILES)
def test_nesting_near_the_limit_of_pythons_parser_is_refused_or_ignored(cli, run, file, levels):
    nest(run, file, levels)
    assert cli("resume", run)[0] in (0, 2), "3.12 reads deeper entries than 3.11, and nothing needs this one"


OTHERS = {
    "a function to call": {"type": "adamw", "params": {"lr": 1e-2, "schedule": {
        "type": "LambdaLR", "lr_lambda": "test_hostile_checkpoints.harm"}}},
    "a class to build": {"type": "test_hostile_checkpoints.Harmful"},
    "a module to import": {"type": "antigravity.Optimizer"},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoints_config_imports_nothing_that_the_runs_does_not(cli, run, name):
    path = run / LAST / "trainer.json"
    values = json.loads(path.read_text())
    other = OTHERS[name]
    values["config"]["model"]["component_optims"]["first"] = {"params": {}, **other}
    path.write_text(json.dumps(values))
    mutations.seal(run / LAST)
    assert "which the run's config does not" in refused(cli, run, "--resume.on_change=keep")


def test_what_the_runs_own_config_names_is_kept(run):
    raw = faults.config(run.parent / "own", total_steps=4, save_every=2, eval_every=2)
    raw["model"]["component_optims"] = {
        **faults.OPTIMS,
        "first": {"type": "sample_factory.Plain", "params": {"lr": 0.05}},
    }
    train(raw, console=QUIET)
    shutil.rmtree(run.parent / "own" / "checkpoints" / "step_00000004")
    change = {"model.component_optims.first.params.lr": 0.1, "resume.on_change": "keep"}
    assert resume(run.parent / "own", change, console=QUIET).step == 4


def test_moments_that_a_kernel_would_write_beyond_are_refused():
    layer = torch.nn.Linear(64, 64)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(layer)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    state = named_state(optimizer)
    for shape in ((2,), (64, 63), ()):
        tensors = {**state.tensors, "weight/exp_avg": torch.zeros(shape)}
        with pytest.raises(StateMismatchError, match=r"exp_avg has shape .*, and its parameter \[64, 64\]"):
            load_named_state(optimizer, NamedState(tensors, state.values))


def test_bytes_that_an_optimizer_unpickles_are_its_own():
    own = {"heavyball": {"schedule": b"own", "use_ema": False}}
    read = {"heavyball": {"schedule": "read", "use_ema": True}}
    assert _merge_additions(own, read) == {"heavyball": {"schedule": b"own", "use_ema": True}}
    assert _merge_additions(own, {"heavyball": {"schedule": {"x": 1}}})["heavyball"]["schedule"] == b"own"
    with pytest.raises(StateMismatchError, match="where a dict is expected"):
        _merge_additions(own, {"heavyball": 3})


@needs("heavyball")
def test_heavyballs_own_setting_survives_a_hostile_state():
    layer = torch.nn.Linear(2, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["heavyball.AdamW"]().build(layer)
    saved = named_state(optimizer)
    kept = optimizer.precond_schedule
    items = saved.values["further"]["list"][1]["dict"][0][1]["dict"]
    items.append(["precond_schedule", "gASVAAAA"])
    load_named_state(optimizer, saved)
    assert optimizer.precond_schedule == kept


def test_a_pipe_in_a_checkpoints_place_is_not_waited_for(cli, run):
    for name in ("manifest.json", "trainer.json"):
        shutil.copytree(run / LAST, run / "copy", dirs_exist_ok=True)
        (run / LAST / name).unlink()
        os.mkfifo(run / LAST / name)
        refused(cli, run)
        shutil.rmtree(run / LAST)
        (run / "copy").rename(run / LAST)
    with pytest.raises(ConfigError):
        resume(run / "nowhere")
