"""Frozen components, and frozen submodules and parameters of them: no gradients, fixed buffers, eval mode."""

import io

import pytest
import torch
from rich.console import Console
from sample_policies import PARTS, policy_config
from sample_runs import ADAMW, config, ready, two

from trainer import ConfigError, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text

QUIET = Console(file=io.StringIO())


def changed_by(raw):
    """Train; return the names of the tensors that have changed, by component, and the trainer."""
    trainer = ready(raw, QUIET)
    components = trainer.components
    before = {name: {key: v.clone() for key, v in each.state_dict().items()} for name, each in components.items()}
    trainer.run()
    return {
        name: {key for key, value in each.state_dict().items() if not torch.equal(value, before[name][key])}
        for name, each in components.items()
    }, trainer


HEAD = {"model.head.weight", "model.head.bias"}
NORM = {"model.norm.weight", "model.norm.bias"}
BACKBONE = {f"{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias")}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
VAE = {"model.vae_scale", "model.vae_encoder.weight", "model.vae_encoder.bias"}


def part(name, freeze):
    return {"parts": {**PARTS, name: {"modules": PARTS[name], "freeze": freeze}}}


CASES = {
    "a part": (part("backbone", True), {"policy": HEAD | NORM | {"model.token"}, "backbone": set(), "vae": VAE}),
    "the rest": ({"parts": PARTS, "freeze": True}, {"policy": set(), "backbone": BACKBONE | STATISTICS, "vae": VAE}),
    "BatchNorm in a part": (
        part("backbone", ["1"]),
        {"policy": HEAD | NORM | {"model.token"}, "backbone": {"0.weight", "0.bias"}, "vae": VAE},
    ),
    "its parameters": (
        part("backbone", ["1.*"]),
        {"policy": HEAD | NORM | {"model.token"}, "backbone": {"0.weight", "0.bias"}, "vae": VAE},
    ),
    "one parameter of it": (
        part("backbone", ["1.bias"]),
        {"policy": HEAD | NORM | {"model.token"}, "backbone": BACKBONE - {"1.bias"} | STATISTICS, "vae": VAE},
    ),
    "names of a share": (
        part("vae", ["model.vae_encoder"]),
        {"policy": HEAD | NORM | {"model.token"}, "backbone": BACKBONE | STATISTICS, "vae": {"model.vae_scale"}},
    ),
    "all of a part by patterns": (
        part("backbone", ["0", "1.weight", "1.bias"]),
        {"policy": HEAD | NORM | {"model.token"}, "backbone": set(), "vae": VAE},
    ),
    "parameters and submodules of the rest": (
        {"parts": PARTS, "freeze": ["model.token", "model.head"]},
        {"policy": NORM, "backbone": BACKBONE | STATISTICS, "vae": VAE},
    ),
}


@pytest.mark.parametrize(("policy", "expected"), CASES.values(), ids=CASES)
def test_only_that_changes_which_is_not_frozen(tmp_path, policy, expected):
    changed, trainer = changed_by(policy_config(tmp_path / "run", policy))
    assert changed == expected
    gradients = {
        name: {key for key, parameter in each.named_parameters() if parameter.grad is not None}
        for name, each in trainer.components.items()
    }
    assert gradients == {name: keys - STATISTICS for name, keys in expected.items()}


def test_a_whole_policy_is_frozen_by_pattern(tmp_path):
    changed, trainer = changed_by(policy_config(tmp_path / "run", {"freeze": ["model.backbone", "*.norm.*"]}))
    assert changed == {"policy": HEAD | {"model.token"} | VAE}
    modes = {name: module.training for name, module in trainer.components["policy"].named_modules()}
    assert not any(modes[name] for name in ("model.backbone", "model.backbone.1", "model.norm"))
    assert all(modes[name] for name in ("", "model", "model.head", "model.dropout"))


def test_a_component_is_frozen_by_pattern(tmp_path):
    components = two(freeze=["norm"])
    changed, trainer = changed_by(config(tmp_path / "run", components, {"first": ADAMW, "second": ADAMW}))
    assert changed["first"] == {"linear.weight", "linear.bias"}
    assert "norm.running_mean" in changed["second"]
    assert trainer.components["first"].dropout.training
    assert not trainer.components["first"].norm.training


def test_an_evaluation_leaves_frozen_submodules_in_eval_mode(tmp_path):
    raw = policy_config(tmp_path / "run", part("backbone", ["1"]), eval_every=3)
    changed, _ = changed_by(raw)
    assert changed["backbone"] == {"0.weight", "0.bias"}


def test_a_component_that_patterns_freeze_as_a_whole_needs_no_optimizer(tmp_path):
    raw = config(tmp_path / "run", two(freeze=["linear", "norm.*"]), {"first": ADAMW, "second": ADAMW})
    trainer = OfflineTrainer(load_config(raw), QUIET)
    assert list(trainer.optimizers) == ["second"]
    assert "first is frozen: its optimizer adamw is skipped" in plan_text(trainer.plan())


def test_a_pattern_without_a_match_names_the_nearest(tmp_path):
    raw = config(tmp_path / "run", two(freeze=["liner"]), {"first": ADAMW, "second": ADAMW})
    with pytest.raises(ConfigError, match=r"model.components.first.freeze: 'liner' matches no .*did you mean 'linear'"):
        train(raw, console=QUIET)


def test_a_name_alone_is_refused_with_the_list_to_write(tmp_path):
    raw = policy_config(tmp_path / "run", {"freeze": "model.head"})
    with pytest.raises(ConfigError, match=r"^model.policy.freeze: must be true, false, a list .*write \[model.head\]$"):
        load_config(raw)


def test_everything_frozen_is_refused(tmp_path):
    raw = policy_config(tmp_path / "run", {"freeze": ["*"]})
    with pytest.raises(ConfigError, match="every one is frozen; there is nothing to train"):
        train(raw, console=QUIET)
