"""Weights that a policy, or a part of one, starts from: runs in parts or whole, files, and `path`."""

import io
import shutil

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from sample_policies import PARTS, Pretrained, SmallPolicy, policy_config
from sample_runs import ADAMW, MLPS, config

from trainer import ConfigError, load_run, resume, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer
from trainer.splitting.parts import whole_module

OTHERS = {"all": ["model.norm", "model.vae*"], "head": "model.head"}
"""Another way to take it apart than PARTS."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder of three runs: a policy whole, in PARTS, and in OTHERS; their weights differ."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (name, parts) in enumerate({"whole": {}, "parts": PARTS, "others": OTHERS}.items(), start=1):
        policy = {"parts": parts, "params": {"dropout": 0.1, "scale": 2.0}}
        raw = policy_config(folder / name, policy, total_steps=2)
        train(raw | {"seed": seed}, console=Console(file=io.StringIO()))
    return folder


def started(tmp_path, policy, console=None):
    """Return the whole policy before its first update."""
    raw = policy_config(tmp_path / "run", policy)
    trainer = OfflineTrainer(load_config(raw), console or Console(file=io.StringIO()))
    return whole_module(trainer.components["policy"])


def of_run(run):
    return whole_module(load_run(run).components["policy"])


def differing(module, other):
    state = other.state_dict()
    return {name for name, value in module.state_dict().items() if not torch.equal(value, state[name])}


@pytest.mark.parametrize("source", ["whole", "parts", "others"])
@pytest.mark.parametrize("parts", [{}, PARTS, OTHERS], ids=["whole", "in parts", "in others"])
def test_a_policy_starts_from_a_run_however_both_are_taken_apart(tmp_path, runs, source, parts):
    module = started(tmp_path, {"parts": parts, "init_from": str(runs / source)})
    assert differing(module, of_run(runs / source)) == set()


def test_a_policy_starts_from_a_file_or_a_folder_with_the_names_of_the_whole(tmp_path, runs):
    trained = of_run(runs / "parts")
    folder = tmp_path / "pretrained_model"
    folder.mkdir()
    save_file(trained.state_dict(), folder / "model.safetensors")
    for source in (folder, folder / "model.safetensors"):
        assert differing(started(tmp_path, {"parts": PARTS, "init_from": str(source)}), trained) == set()
    renamed = {f"net.{name}": value for name, value in trained.state_dict().items()}
    save_file(renamed, folder / "model.safetensors")
    init = {"path": str(folder), "rename": {"net.*": "*"}}
    assert differing(started(tmp_path, {"parts": PARTS, "init_from": init}), trained) == set()
    init = {"path": str(folder), "rename": {"net.model.head.*": "model.head.*"}, "strict": False}
    module = started(tmp_path, {"init_from": init})
    assert "model.norm.weight" in differing(module, trained)
    assert not {"model.head.weight", "model.head.bias"} & differing(module, trained)


def test_a_part_starts_from_a_component_after_the_whole(tmp_path, runs):
    own = {"modules": "model.backbone", "init_from": str(runs / "parts")}
    module = started(tmp_path, {"parts": {"backbone": own}, "init_from": str(runs / "whole")})
    whole, parts = of_run(runs / "whole"), of_run(runs / "parts")
    backbone = {name for name in whole.state_dict() if name.startswith("model.backbone.")}
    backbone -= {"model.backbone.1.num_batches_tracked"}  # two updates in each
    assert differing(module, whole) == backbone
    assert not differing(module, parts) & backbone


def test_a_part_starts_from_other_names(tmp_path, runs):
    file = tmp_path / "backbone.safetensors"
    save_file({f"body.{k}": v for k, v in of_run(runs / "whole").model.backbone.state_dict().items()}, file)
    own = {"modules": "model.backbone", "init_from": {"path": str(file), "component": "body"}}
    module = started(tmp_path, {"parts": {"backbone": own}})
    assert not {n for n in differing(module, of_run(runs / "whole")) if n.startswith("model.backbone.")}
    wrong = {"modules": "model.head", "init_from": str(file)}
    with pytest.raises(ConfigError, match=r"model.policy.parts.head.init_from: .*backbone.safetensors"):
        started(tmp_path, {"parts": {"head": wrong}})


def test_the_log_names_what_was_loaded(tmp_path, runs):
    printed = Console(file=io.StringIO(), width=300)
    started(tmp_path, {"parts": PARTS, "init_from": str(runs / "others")}, printed)
    assert "policy: 16 of 16 tensors from" in printed.file.getvalue()


PROBLEMS = {
    "nothing there": ({"init_from": "/nowhere"}, "model.policy.init_from: /nowhere"),
    "a part that is not there": (
        {"parts": {"head": {"modules": "model.head", "init_from": "RUNS/parts"}}},
        "model.policy.parts.head.init_from: ",
    ),
    "other shapes": ({"params": {"width": 5}, "init_from": "RUNS/parts"}, "the weights do not fit"),
    "init_from beside path": (
        {"type": None, "path": "RUNS/parts", "init_from": "RUNS/whole"},
        "model.policy.init_from is ",
    ),
    "path to nothing": ({"type": None, "path": "/nowhere"}, "model.policy.path: there is nothing at /nowhere"),
    "path to no policy": ({"type": None, "path": "RUNS"}, "model.policy.path: there is no policy at"),
    "path to a run of components": (
        {"type": None, "path": "RUNS/components"},
        "has no model.policy; its components are first, second",
    ),
}


def placed(value, runs):
    if isinstance(value, dict):
        return {name: placed(item, runs) for name, item in value.items()}
    return value.replace("RUNS", str(runs)) if isinstance(value, str) else value


@pytest.mark.parametrize(("policy", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_source_that_does_not_fit_is_reported_with_its_path(tmp_path, runs, policy, message):
    if not (runs / "components").exists():
        raw = config(runs / "components", MLPS, dict.fromkeys(MLPS, ADAMW), total_steps=1)
        train(raw, console=Console(file=io.StringIO()))
    with pytest.raises(ConfigError) as error:
        started(tmp_path, placed(policy, runs))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_part_is_reported(tmp_path, runs):
    run = tmp_path / "source"
    train(policy_config(run, {"parts": PARTS}, total_steps=1), console=Console(file=io.StringIO()))
    path = run / "checkpoints/step_00000001/vae/model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(ConfigError, match=r"model.policy.init_from: .*vae.model.safetensors"):
        started(tmp_path, {"init_from": str(run)})


@pytest.mark.parametrize("place", ["parts", "parts/checkpoints/step_00000002", "parts/checkpoints/latest"])
def test_path_brings_type_params_and_weights(tmp_path, runs, place):
    policy = {"path": str(runs / place), "type": None, "params": {"scale": 3.0}, "parts": OTHERS}
    raw = policy_config(tmp_path / "run", policy, total_steps=1)
    del raw["model"]["policy"]["type"]
    made = load_config(raw).model.policy
    assert (made.type, made.path) == ("small_policy", None)
    assert made.params == {"dropout": 0.1, "scale": 3.0}
    assert made.normalization is None
    assert list(made.parts) == ["all", "head"]
    trainer = OfflineTrainer(load_config(raw), Console(file=io.StringIO()))
    assert differing(whole_module(trainer.components["policy"]), of_run(runs / "parts")) == set()
    train(raw, console=Console(file=io.StringIO()))
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["policy"]
    assert (written["type"], written["path"]) == ("small_policy", None)
    assert written["init_from"]["path"] == str(runs / place)
    assert load_config(tmp_path / "run/config.yaml").model.policy.params == {"dropout": 0.1, "scale": 3.0}


def test_path_brings_the_normalization(tmp_path, runs):
    content = yaml.safe_load((runs / "whole/config.yaml").read_text())
    content["model"]["policy"]["normalization"] = {"STATE": "MIN_MAX"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    raw = policy_config(tmp_path / "run", {"path": str(tmp_path)})
    del raw["model"]["policy"]["type"]
    assert load_config(raw).model.policy.normalization == {"STATE": "MIN_MAX"}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"{", b'{"chunk_size": 3}', b"\xff\xfe{"])
def test_a_config_of_lerobots_that_cannot_be_read_is_an_error(tmp_path, content):
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "config.json").write_bytes(content)
    raw = policy_config(tmp_path / "run", {"path": str(place), "type": None})
    del raw["model"]["policy"]["type"]
    with pytest.raises(ConfigError, match=r"^model\.policy\.path: .*config\.json"):
        load_config(raw)


def test_the_weights_of_a_class_are_those_of_its_seed_without_a_source(tmp_path):
    assert differing(started(tmp_path, {}), started(tmp_path, {"parts": PARTS})) == set()
    assert differing(started(tmp_path, {}), SmallPolicy()) != set()


SOURCES = {
    "none": (None, [False]),
    "a run": ({}, [True]),
    "not all of a run": ({"strict": False}, [False]),
}


@pytest.mark.parametrize(("init", "follow"), SOURCES.values(), ids=SOURCES)
def test_a_class_knows_whether_saved_weights_follow(tmp_path, runs, init, follow):
    Pretrained.built.clear()
    source = None if init is None else {"path": str(runs / "whole"), **init}
    started(tmp_path, {"type": "sample_policies.Pretrained", "init_from": source})
    assert Pretrained.built == follow


def test_a_run_that_is_loaded_or_resumed_needs_no_pretrained_weights(tmp_path):
    raw = policy_config(tmp_path / "run", {"type": "sample_policies.Pretrained"}, total_steps=2, save_every=1)
    train(raw, console=Console(file=io.StringIO()))
    Pretrained.built.clear()
    load_run(tmp_path / "run")
    resume(tmp_path / "run/checkpoints/step_00000001", console=Console(file=io.StringIO()))
    assert Pretrained.built == [True, True]
    shutil.rmtree(tmp_path / "run/checkpoints")
    resume(tmp_path / "run", console=Console(file=io.StringIO()))
    assert Pretrained.built == [True, True, False]
