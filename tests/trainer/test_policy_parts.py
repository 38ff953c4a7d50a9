"""A policy in parts: trained as the whole, and what each part's entry says."""

import io
import re

import pytest
import torch
from conftest import NO_TORCH_COMPILE, metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_policies import ADAMW, PARTS, policy_config
from sample_runs import drop

from trainer import ConfigError, load_run, resume, train
from trainer.config.load import load_config
from trainer.loop import gradient_updates
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text

QUIET = Console(file=io.StringIO())
CLIPPED = {"total_steps": 20, "grad_clip_norm": 0.05}
WIDE = {"params": {"dropout": 0.1, "width": 64}}


def latest(run, name):
    checkpoints = run / "checkpoints"
    return load_file(checkpoints / (checkpoints / "latest").read_text().strip() / name / "model.safetensors")


def joined(run, parts):
    prefix = {name: "model.backbone." if name == "backbone" else "" for name in ["policy", *parts]}
    return {prefix[name] + key: value for name in prefix for key, value in latest(run, name).items()}


def losses(run):
    return [line["loss"] for line in metrics_of(run)]


def trained(run, policy, **options):
    raw = policy_config(run, policy, **{**CLIPPED, **options})
    raw["data"]["params"] = {"width": policy.get("params", {}).get("width", 4)}
    train(raw, console=QUIET)
    return losses(run)


def test_a_policy_in_parts_trains_as_the_whole_one_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole", WIDE)
    assert trained(tmp_path / "parts", {**WIDE, "parts": PARTS}) == whole
    one, other = latest(tmp_path / "whole", "policy"), joined(tmp_path / "parts", PARTS)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert trained(tmp_path / "unclipped", WIDE, grad_clip_norm=None) != whole


def test_the_order_of_the_components_would_be_another_joint_norm(tmp_path, monkeypatch):
    """The test above can fail: the norm of its gradients depends on the order."""

    def by_components(components):
        return [parameter for component in components for parameter in component.parameters()]

    whole = trained(tmp_path / "whole", WIDE)
    monkeypatch.setattr(gradient_updates, "in_model_order", by_components)
    assert trained(tmp_path / "parts", {**WIDE, "parts": PARTS}) != whole


@pytest.mark.slow
@NO_TORCH_COMPILE
@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_a_compiled_policy_in_parts_trains(tmp_path):
    compiled = trained(tmp_path / "compiled", {"parts": PARTS}, compile=True, total_steps=4)
    plain = trained(tmp_path / "plain", {"parts": PARTS}, total_steps=4)
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert compiled[0] != compiled[-2]


MISTAKES = {
    "no match": (
        {"parts": {"backbone": "model.bakbone"}},
        "model.policy.parts.backbone: 'model.bakbone' matches no submodule or parameter; did you mean 'model.backbone'",
    ),
    "twice": (
        {"parts": {"one": "model.head", "two": ["model.h*"]}},
        "model.policy.parts.two: 'model.head' is claimed by 'one' too",
    ),
    "no parameters": ({"parts": {"one": "model.dropout"}}, "model.policy.parts.one: has no parameters"),
    "no modules": ({"parts": {"one": []}}, "model.policy.parts.one.modules: "),
    "name of the rest": ({"parts": {"policy": "model.head"}}, "model.policy.parts.policy: must differ from 'policy'"),
    "name of a method": ({"parts": {"train": "model.head"}}, "model.policy.parts.train: cannot be a component's name"),
    "one folder": (
        {"parts": {"head": "model.head", "Head": "model.norm"}},
        "model.policy.parts.Head: must differ from 'head' in more than case",
    ),
    "unknown field": ({"parts": {"one": {"modules": "model.head", "frezze": True}}}, "did you mean 'freeze'"),
    "pattern of freeze": (
        {"freeze": ["model.heat"]},
        "model.policy.freeze: 'model.heat' matches no submodule or parameter; did you mean 'model.head'",
    ),
    "pattern of a part's freeze": (
        {"parts": {"backbone": {"modules": "model.backbone", "freeze": ["model.backbone.0"]}}},
        "model.policy.parts.backbone.freeze: 'model.backbone.0' matches no submodule or parameter",
    ),
    "parameters": ({"params": {"widht": 3}}, "model.policy.params.widht: unknown name; did you mean 'width'"),
    "optimizer of a policy in parts": (
        {"parts": PARTS, "init_from": {"path": "somewhere", "optimizer": True}},
        "model.policy.init_from.optimizer: must be false for a policy in parts",
    ),
    "path and type": (
        {"path": "/runs/other"},
        "model.policy.path is '/runs/other', and model.policy.type is 'small_policy'",
    ),
}


@pytest.mark.parametrize(("policy", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_with_its_path_before_anything_is_written(tmp_path, policy, message):
    with pytest.raises(ConfigError) as error:
        train(policy_config(tmp_path / "run", policy), console=QUIET)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_of_components_and_parts_must_differ(tmp_path):
    raw = policy_config(tmp_path / "run", {"parts": PARTS})
    for name, owner in {"backbone": "a part of model.policy", "policy": "model.policy"}.items():
        raw["model"]["components"] = {name: {"type": "mlp"}}
        with pytest.raises(ConfigError, match=f"model.components.{name}: must differ from '{name}', which {owner} has"):
            load_config(raw)
    raw["model"] = {"component_optims": {}}
    with pytest.raises(ConfigError, match=r"model.components: must have at least one component, unless there is a pol"):
        load_config(raw)


def test_a_part_without_an_optimizer_is_reported_by_its_path(tmp_path):
    raw = policy_config(tmp_path / "run", {"parts": PARTS}, {"policy": ADAMW, "backbone": ADAMW})
    with pytest.raises(ConfigError, match=r"no entry for component 'vae'.* or set model.policy.parts.vae.freeze to tr"):
        train(raw, console=QUIET)
    raw["model"]["component_optims"]["vea"] = ADAMW
    with pytest.raises(ConfigError, match=r"component_optims.vea: there is no component of this name; did you mean 'v"):
        load_config(raw)


def test_a_rest_without_parameters_needs_no_optimizer(tmp_path):
    parts = {"one": ["model.backbone", "model.vae*", "model.token"], "two": ["model.head", "model.norm"]}
    raw = policy_config(tmp_path / "run", {"parts": parts}, {"one": ADAMW, "two": ADAMW})
    trainer = OfflineTrainer(load_config(raw), QUIET)
    assert list(trainer.optimizers) == ["one", "two"]
    assert re.search("policy +0  the rest +- +- ", plan_text(trainer.plan()))
    train(raw, console=QUIET)
    resume(tmp_path / "run", {"train.total_steps": 14, "resume.on_change": "override"}, console=QUIET)


def test_a_part_that_the_loss_does_not_depend_on_is_reported_by_its_path(tmp_path):
    raw = policy_config(tmp_path / "run", {"type": "sample_policies.Idle", "parts": {"spare": "spare"}})
    with pytest.raises(ConfigError, match=r"model.policy.parts.spare: the loss does not depend on it"):
        train(raw, console=QUIET)


def test_the_dry_run_names_the_part_that_fails(tmp_path):
    for parts, path in ((PARTS, "model.policy.parts.backbone"), ({"b": ["model.backbone", "model.norm"]}, "parts.b")):
        raw = policy_config(tmp_path / "run", {"type": "sample_policies.Broken", "parts": parts})
        with pytest.raises(ConfigError, match=rf"{path}: fails on an input of shape \[2, 4\]"):
            OfflineTrainer(load_config(raw), QUIET)


def test_the_plan_shows_the_rest_and_the_parts(tmp_path):
    policy = {"parts": {**PARTS, "vae": {"modules": PARTS["vae"], "freeze": True}}}
    plan = plan_text(OfflineTrainer(load_config(policy_config(tmp_path / "run", policy)), QUIET).plan())
    rows = {line.split()[0]: re.split("  +", line) for line in plan.splitlines() if "  " in line}
    assert rows["policy"][:4] == ["policy", "32", "the rest", "yes"]
    assert rows["backbone"][:4] == ["backbone", "28", "model.backbone", "yes"]
    assert rows["vae"][:4] == ["vae", "24", "model.vae_encoder*, model.vae_scale", "frozen"]


def overridden(tmp_path, **overrides):
    raw = policy_config(tmp_path / "run", {"parts": PARTS})
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(raw, {f"model.policy.parts.{key}": value for key, value in keys.items()}).model.policy.parts


def test_overrides_set_fields_of_parts_that_are_text_or_lists(tmp_path):
    parts = overridden(tmp_path, backbone__freeze=True, vae__freeze=["model.vae_scale"], token="model.token")
    assert (parts["backbone"].modules, parts["backbone"].freeze) == (["model.backbone"], True)
    assert (parts["vae"].modules, parts["vae"].freeze) == (PARTS["vae"], ["model.vae_scale"])
    assert parts["token"].modules == ["model.token"]
    with pytest.raises(ConfigError, match=r"there is no 'bakbone' in model.policy.parts; did you mean 'backbone'"):
        overridden(tmp_path, bakbone__freeze=True)


def test_resume_of_a_policy_in_parts_equals_the_uninterrupted_run(tmp_path):
    policy = {"parts": PARTS, "params": {"dropout": 0.2}}
    options = {"save_every": 5, "eval_every": 4, "grad_clip_norm": 0.05}
    for run in ("whole", "killed"):
        train(policy_config(tmp_path / run, policy, **options), console=QUIET)
    drop(tmp_path / "killed" / "checkpoints" / "step_00000012")
    resume(tmp_path / "killed", console=QUIET)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    for name in ("policy", "backbone", "vae"):
        one, other = (latest(tmp_path / run, name) for run in ("whole", "killed"))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_changed_parts_are_a_changed_config(tmp_path):
    run = tmp_path / "run"
    train(policy_config(run, {"parts": PARTS}), console=QUIET)
    with pytest.raises(ConfigError, match=r"model.policy.parts.backbone.modules: saved .*backbone.*, now .*head"):
        resume(run, {"model.policy.parts.backbone.modules": ["model.head"], "train.total_steps": 15}, console=QUIET)


def test_a_loaded_run_has_the_policy_whole(tmp_path):
    train(policy_config(tmp_path / "run", {"parts": PARTS}), console=QUIET)
    loaded = load_run(tmp_path / "run")
    batch = {"x": torch.ones(2, 4), "y": torch.ones(2, 4)}
    loss, _ = loaded.components["policy"](batch)
    assert loss.isfinite()
    state = loaded.components["policy"].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in latest(tmp_path / "run", "policy").items())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("misspelt", "model.policy.params.hwo: "),
        ("object", "model.policy.params.how: "),
        ("nothing", "model.policy.params: complete_params of sample_policies.Completed must return parameters by name"),
        ("fails", "model.policy.params: complete_params of sample_policies.Completed fails: KeyError: 'fails'"),
    ],
)
def test_completed_parameters_that_cannot_be_used_are_reported(tmp_path, how, words):
    raw = policy_config(tmp_path / "run", {"type": "sample_policies.Completed", "params": {"how": how}})
    with pytest.raises(ConfigError) as error:
        train(raw, console=QUIET)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()
