"""Writes lerobot.json: the lr of 300 updates under each schedule of the installed LeRobot.

Run it with lerobot installed (the tests themselves do not need it): python tests/golden/make_lerobot.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from lerobot.optim.schedulers import (
    CosineDecayWithWarmupSchedulerConfig,
    DiffuserSchedulerConfig,
    VQBeTSchedulerConfig,
)

LR, UPDATES = 3e-3, 300
CLASSES = {
    "cosine_decay_with_warmup": CosineDecayWithWarmupSchedulerConfig,
    "diffuser": DiffuserSchedulerConfig,
    "vqbet": VQBeTSchedulerConfig,
}
CASES = [
    {
        "type": "cosine_decay_with_warmup",
        "num_warmup_steps": 40,
        "num_decay_steps": 200,
        "peak_lr": 1e-3,
        "decay_lr": 1e-5,
    },
    {
        "type": "cosine_decay_with_warmup",
        "num_warmup_steps": 40,
        "num_decay_steps": 900,
        "peak_lr": 1e-3,
        "decay_lr": 1e-4,
    },
    {
        "type": "cosine_decay_with_warmup",
        "num_warmup_steps": 0,
        "num_decay_steps": 300,
        "peak_lr": 3e-3,
        "decay_lr": 0.0,
    },
    {"type": "vqbet", "num_warmup_steps": 30, "num_vqvae_training_steps": 50},
    {"type": "vqbet", "num_warmup_steps": 0, "num_vqvae_training_steps": 0, "num_cycles": 1.5},
    {"type": "diffuser", "name": "cosine", "num_warmup_steps": 40},
    {"type": "diffuser", "name": "linear", "num_warmup_steps": 40},
    {"type": "diffuser", "name": "polynomial", "num_warmup_steps": 40},
    {"type": "diffuser", "name": "constant_with_warmup", "num_warmup_steps": 40},
    {"type": "diffuser", "name": "cosine_with_restarts", "num_warmup_steps": 40},
]


def trace(case: dict) -> list[float]:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=LR)
    fields = {name: value for name, value in case.items() if name != "type"}
    scheduler = CLASSES[case["type"]](**fields).build(optimizer, UPDATES)
    lrs = []
    for _ in range(UPDATES):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


if __name__ == "__main__":
    golden = {
        "lerobot": version("lerobot"),
        "torch": torch.__version__,
        "lr": LR,
        "cases": [{"case": case, "trace": trace(case)} for case in CASES],
    }
    Path(__file__).with_name("lerobot.json").write_text(json.dumps(golden) + "\n")
