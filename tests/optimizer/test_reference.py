"""The YAML blocks and invariants of the optimizer README that users come with, word for word."""

import io

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, AdamWWithOneCycle, AdamWWithWarmupCosine
from trainer.config.load import load_config
from trainer.config.yaml_file import read_config_file
from trainer.offline_trainer import OfflineTrainer

WARMUP_COSINE_BLOCK = """\
model:
  component_optims:
    info_embedder:
      type: "adamw_warmup_cosine_decay"
      params:
        peak_lr: 1.0e-4
        start_lr: 1.0e-6
        end_lr: 1.0e-6
        total_steps: 200000
        warmup_steps: 2000
        betas: [0.9, 0.999]
        eps: 1.0e-8
        weight_decay: 0.01
"""
ONE_CYCLE_BLOCK = """\
model:
  component_optims:
    backbone:
      type: "adamw_cosine_schedule"
      params:
        lr: 1.0e-4
        max_lr: 1.0e-3
        total_steps: 100000
        pct_start: 0.1
"""


def built(block, tmp_path, edit=lambda text: text):
    """Read `block` from a file and build its optimizer by the trainer, as its component's only one."""
    path = tmp_path / "block.yaml"
    path.write_text(edit(block))
    raw = read_config_file(path)
    (name,) = raw["model"]["component_optims"]
    raw["model"]["components"] = {name: {"type": "mlp", "params": {"in_features": 16}}}
    raw |= {"data": {"type": "digits"}}
    objective = {"type": "classification", "params": {"input": "profile"}}
    raw["train"] = {"objective": objective, "total_steps": 10, "run_dir": str(tmp_path / "run")}
    return OfflineTrainer(load_config(raw), Console(file=io.StringIO())).optimizers[name]


def test_the_warmup_cosine_block_builds(tmp_path):
    optimizer = built(WARMUP_COSINE_BLOCK, tmp_path)
    assert isinstance(optimizer, AdamWWithWarmupCosine)
    assert isinstance(optimizer, torch.optim.AdamW)
    curve = optimizer.scheduler.schedule
    assert [curve.lr_at(k) for k in (0, 2000, 199_999, 200_000)] == [1e-6, 1e-4, 1e-6, 1e-6]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-6, (0.9, 0.999), 1e-8, 0.01)


def test_the_one_cycle_block_builds(tmp_path):
    optimizer = built(ONE_CYCLE_BLOCK, tmp_path)
    assert isinstance(optimizer, AdamWWithOneCycle)
    assert isinstance(optimizer, torch.optim.AdamW)
    curve = optimizer.scheduler.schedule
    assert curve.lr_at(0) == pytest.approx(1e-3 / 25)
    assert max(curve.lr_at(k) for k in range(9_990, 10_010)) == pytest.approx(1e-3)
    assert curve.lr_at(99_999) == pytest.approx(1e-3 / 25 / 1e4)


def test_yaml_numbers_in_short_form_are_numbers(tmp_path):
    optimizer = built(WARMUP_COSINE_BLOCK, tmp_path, lambda text: text.replace(".0e-", "e-"))
    assert optimizer.scheduler.schedule.peak_lr == 1e-4


def test_the_loop_only_steps_the_optimizer(tmp_path):
    optimizer = built(WARMUP_COSINE_BLOCK, tmp_path)
    for _ in range(3):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.scheduler.schedule.lr_at(3)
    with pytest.raises(RuntimeError, match="Do not attach another scheduler"):
        torch.optim.lr_scheduler.ConstantLR(optimizer)


@pytest.mark.parametrize("key", ["adamw_warmup_cosine_decay", "adamw_cosine_schedule", "schedule_free_radam"])
def test_the_state_dict_carries_the_schedule_under_scheduler(key):
    required = {"adamw_warmup_cosine_decay": {"peak_lr": 1e-3}, "adamw_cosine_schedule": {"max_lr": 1e-3}}
    params = {**required.get(key, {}), **({"total_steps": 50} if key in required else {})}
    first, second = (OPTIMIZER_BUILDER_REGISTRY[key](**params).build(nn.Linear(2, 2)) for _ in range(2))
    if hasattr(first, "train"):
        first.train()
    for _ in range(7):
        first.step()
    state = first.state_dict()
    assert "scheduler" in state
    second.load_state_dict(state)
    assert second.scheduler.state_dict() == first.scheduler.state_dict()
    assert second.scheduler.last_epoch == 7


@pytest.mark.parametrize("bad", ["peak_lr: 0", "peak_lr: -1.0e-4", "start_lr: 1.0e-3", "end_lr: 1.0e-3"])
def test_validation_is_performed_at_construction(bad):
    name, value = bad.split(": ")
    params = {"peak_lr": 1e-4, "total_steps": 100, name: float(value)}
    with pytest.raises(ValidationError, match=name):
        OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](**params)
