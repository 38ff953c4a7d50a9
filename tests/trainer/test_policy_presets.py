"""`type: preset` for a policy: optimizer, schedule, groups and clipping that its class recommends."""

import io

import pytest
import yaml
from conftest import metrics_of
from rich.console import Console
from sample_policies import PARTS, policy_config
from sample_runs import drop

from trainer import ConfigError, resume, train
from trainer.config.load import load_config
from trainer.offline_trainer import OfflineTrainer

QUIET = Console(file=io.StringIO())
PRESET = {"type": "preset"}
PARTED = {"type": "sample_policies.Recommending", "params": {"lr": 4e-3}, "parts": PARTS}


def optims(**params):
    return {name: {"type": "preset", **({"params": params[name]} if name in params else {})} for name in PARTED_NAMES}


PARTED_NAMES = ["policy", "backbone", "vae"]


def groups_of(trainer, name):
    groups = trainer.optimizers[name].param_groups
    return {tuple(group["param_names"]): (group["initial_lr"], group["weight_decay"]) for group in groups}


def test_the_groups_of_a_policy_become_rules_by_name(tmp_path):
    policy = {**PARTED, "parts": {}}
    trainer = OfflineTrainer(load_config(policy_config(tmp_path / "run", policy, {"policy": PRESET})), QUIET)
    rules = trainer.config.model.component_optims["policy"].params["param_groups"]
    assert rules == [
        {"match": ["model.token", "model.norm.*"], "weight_decay": 0.0},
        {"match": ["model.backbone.*"], "lr": 1e-5},
    ]
    by_lr = {lr: len(names) for names, (lr, _) in groups_of(trainer, "policy").items()}
    assert by_lr[1e-5] == 4
    assert sum(by_lr.values()) == 5 + 4 or len(groups_of(trainer, "policy")) == 3


def test_the_groups_of_a_part_have_its_own_names(tmp_path):
    trainer = OfflineTrainer(load_config(policy_config(tmp_path / "run", PARTED, optims())), QUIET)
    resolved = trainer.config.model.component_optims
    assert resolved["backbone"].params["param_groups"] == [{"match": ["*"], "lr": 1e-5}]
    assert resolved["policy"].params["param_groups"] == [
        {"match": ["model.token", "model.norm.*"], "weight_decay": 0.0}
    ]
    assert "param_groups" not in resolved["vae"].params
    assert {lr for lr, _ in groups_of(trainer, "backbone").values()} == {1e-5}
    assert {lr for lr, _ in groups_of(trainer, "vae").values()} == {4e-3}


def test_an_option_that_is_given_wins_over_preset_and_groups(tmp_path):
    given = optims(backbone={"lr": 2e-3}, policy={"weight_decay": 0.5})
    trainer = OfflineTrainer(load_config(policy_config(tmp_path / "run", PARTED, given)), QUIET)
    assert {lr for lr, _ in groups_of(trainer, "backbone").values()} == {2e-3}
    assert {decay for _, decay in groups_of(trainer, "policy").values()} == {0.5}
    own = optims(backbone={"param_groups": [{"match": "*.bias", "lr_multiplier": 2.0}]})
    trainer = OfflineTrainer(load_config(policy_config(tmp_path / "own", PARTED, own)), QUIET)
    assert {lr for lr, _ in groups_of(trainer, "backbone").values()} == {4e-3, 8e-3}


def test_a_peak_lr_that_is_given_wins_over_the_lr_of_groups(tmp_path):
    policy = {"type": "sample_policies.Warming", "parts": PARTS}
    for given, lr in (({}, 1e-5), ({"peak_lr": 2e-3}, 2e-3)):
        raw = policy_config(tmp_path / "run", policy, optims(backbone=given))
        rules = OfflineTrainer(load_config(raw), QUIET).config.model.component_optims["backbone"].params
        assert [rule.get("lr", lr) for rule in rules.get("param_groups", [{}])] == [lr]
        assert rules["peak_lr"] == (given or {"peak_lr": 1e-3})["peak_lr"]


def test_the_norm_of_the_preset_clips_all_parts_together(tmp_path):
    config = load_config(policy_config(tmp_path / "run", PARTED, optims()))
    entries = config.model.component_optims
    assert config.train.grad_clip_norm == 3.0
    assert {name: entry.params["grad_clip_norm"] for name, entry in entries.items()} == dict.fromkeys(PARTED_NAMES, 0)
    config = load_config(policy_config(tmp_path / "run", PARTED, optims(), grad_clip_norm=0.5))
    assert config.train.grad_clip_norm == 0.5
    config = load_config(policy_config(tmp_path / "run", PARTED, optims(), grad_clip_norm=None))
    assert config.train.grad_clip_norm is None
    config = load_config(policy_config(tmp_path / "run", PARTED, optims(vae={"grad_clip_norm": 7.0})))
    assert config.train.grad_clip_norm == 3.0
    assert config.model.component_optims["vae"].params["grad_clip_norm"] == 7.0


def test_the_config_of_the_run_holds_it_all_and_a_resume_is_no_changed_config(tmp_path):
    options = {"save_every": 5}
    train(policy_config(tmp_path / "whole", PARTED, optims(), **options), console=QUIET)
    train(policy_config(tmp_path / "run", PARTED, optims(), **options), console=QUIET)
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    entry = written["model"]["component_optims"]["backbone"]
    assert entry["type"] == "adamw"
    assert entry["params"]["lr"] == 4e-3
    assert entry["params"]["schedule"]["type"] == "linear"
    assert entry["params"]["param_groups"][0]["lr"] == 1e-5
    assert written["train"]["grad_clip_norm"] == 3.0
    assert written["train"]["objective"]["type"] == "policy_loss"
    drop(tmp_path / "run/checkpoints/step_00000012")
    assert resume(tmp_path / "run", console=QUIET).step == 12
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


BAD = {
    "fails": ("Failing", "model.policy: the get_optim_params of Failing fails: KeyError: 'no_such'"),
    "not parameters": ("Texts", "model.policy: the get_optim_params of Texts fails: TypeError: a group must hold para"),
    "unknown option": ("Misspelt", "model.component_optims.policy.params.param_groups.0.weight_decya: "),
    "no preset": ("Idle", "model.component_optims.policy.type: sample_policies.Idle brings no preset"),
}


@pytest.mark.parametrize(("cls", "message"), BAD.values(), ids=BAD)
def test_a_preset_that_cannot_be_used_is_reported(tmp_path, cls, message):
    raw = policy_config(tmp_path / "run", {"type": f"sample_policies.{cls}"}, {"policy": PRESET})
    if cls == "Idle":
        raw["model"]["policy"]["type"] = "sample_policies.Idle"
    with pytest.raises(ConfigError) as error:
        train(raw, console=QUIET)
    assert message in str(error.value)


def test_parameters_by_name_are_no_groups(tmp_path):
    raw = policy_config(tmp_path / "run", {"type": "sample_policies.Named"}, {"policy": PRESET}, total_steps=1)
    train(raw, console=QUIET)
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert written["model"]["component_optims"]["policy"]["params"]["param_groups"] == []
