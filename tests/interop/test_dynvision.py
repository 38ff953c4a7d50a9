"""The four patterns of DynVision's reference, through the trainer."""

import io

import pytest
from conftest import metrics_of
from rich.console import Console
from sample_runs import ADAMW, config, two

from trainer import train

EPOCH = 5  # 37 samples by 8

PATTERNS = {
    "AdamW with a warm-up and a cosine": {
        "type": "AdamW",
        "params": {
            "lr": 0.001,
            "weight_decay": 0.01,
            "schedule": {
                "type": "LinearWarmupCosineAnnealingLR",
                "warmup_epochs": 10,
                "max_epochs": 100,
                "eta_min": 1e-6,
                "interval": "epoch",
                "frequency": 1,
            },
        },
    },
    "SGD with milestones": {
        "type": "SGD",
        "params": {
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": {"type": "MultiStepLR", "milestones": [1, 2], "gamma": 0.1, "interval": "epoch"},
        },
    },
    "Adam until a plateau": {
        "type": "Adam",
        "params": {
            "lr": 0.001,
            "schedule": {
                "type": "ReduceLROnPlateau",
                "mode": "min",
                "factor": 0.5,
                "patience": 10,
                "monitor": "val_loss",
            },
        },
    },
    "SGD with one cycle": {
        "type": "SGD",
        "params": {
            "lr": 0.1,
            "momentum": 0.9,
            "schedule": {
                "type": "OneCycleLR",
                "max_lr": 0.1,
                "total_steps": 10000,
                "pct_start": 0.3,
                "interval": "step",
            },
        },
    },
}
LRS = {
    "AdamW with a warm-up and a cosine": [0.0] * EPOCH + [0.001 / 9] * EPOCH + [0.002 / 9] * 2,
    "SGD with milestones": [0.01] * EPOCH + [0.001] * EPOCH + [0.0001] * 2,
    "Adam until a plateau": [0.001] * 12,
    "SGD with one cycle": [0.004] * 12,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_four_patterns_train(tmp_path, pattern):
    run = config(tmp_path / "run", two(), {"first": PATTERNS[pattern], "second": ADAMW}, eval_every=2)
    train(run, console=Console(file=io.StringIO()))
    lrs = [line["lr/first"] for line in metrics_of(tmp_path / "run") if line["split"] == "train"]
    assert lrs == pytest.approx(LRS[pattern], rel=1e-3, abs=1e-12)
