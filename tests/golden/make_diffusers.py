"""Writes diffusers.json: the lr of 300 updates under each schedule of the installed diffusers.

Run it with diffusers installed (the tests themselves do not need it): python tests/golden/make_diffusers.py
"""

import json
from pathlib import Path

import diffusers
import torch
from diffusers.optimization import get_scheduler

LR, UPDATES = 3e-3, 300
CASES = [
    {"name": "constant"},
    {"name": "constant_with_warmup", "num_warmup_steps": 40},
    {"name": "piecewise_constant", "step_rules": "1:10,0.1:20,0.005"},
    {"name": "linear", "num_warmup_steps": 40, "num_training_steps": 300},
    {"name": "linear", "num_warmup_steps": 0, "num_training_steps": 250},
    {"name": "cosine", "num_warmup_steps": 40, "num_training_steps": 300},
    {"name": "cosine", "num_warmup_steps": 7, "num_training_steps": 299},
    {"name": "cosine_with_restarts", "num_warmup_steps": 40, "num_training_steps": 300, "num_cycles": 3},
    {"name": "cosine_with_restarts", "num_warmup_steps": 40, "num_training_steps": 250, "num_cycles": 1},
    {"name": "polynomial", "num_warmup_steps": 40, "num_training_steps": 300, "power": 2.0},
    {"name": "polynomial", "num_warmup_steps": 40, "num_training_steps": 250, "power": 1.0},
]


def trace(case: dict) -> list[float]:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = get_scheduler(optimizer=optimizer, **case)
    lrs = []
    for _ in range(UPDATES):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


if __name__ == "__main__":
    golden = {
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "lr": LR,
        "cases": [{"case": case, "trace": trace(case)} for case in CASES],
    }
    Path(__file__).with_name("diffusers.json").write_text(json.dumps(golden) + "\n")
