"""Writes transformers.json: the lr of 300 updates under each schedule of the installed transformers.

Run it with transformers installed (the tests themselves do not need it): python tests/golden/make_transformers.py
"""

import json
import math
from pathlib import Path

import torch
import transformers
from transformers.optimization import get_scheduler

LR, UPDATES = 3e-3, 300
METRICS = [1.0 / (1.0 + k / 20) + 0.05 * math.sin(k) + (0.5 if 120 < k < 200 else 0.0) for k in range(UPDATES)]
CASES = [
    {"type": "constant"},
    {"type": "constant_with_warmup", "num_warmup_steps": 40},
    {"type": "linear", "num_warmup_steps": 40, "num_training_steps": 300},
    {"type": "cosine", "num_warmup_steps": 40, "num_training_steps": 300},
    {"type": "cosine", "num_warmup_steps": 0, "num_training_steps": 300, "num_cycles": 1.5},
    {"type": "cosine_with_restarts", "num_warmup_steps": 40, "num_training_steps": 300, "num_cycles": 3},
    {"type": "polynomial", "num_warmup_steps": 40, "num_training_steps": 250, "power": 2.0, "lr_end": 1e-5},
    {"type": "inverse_sqrt", "num_warmup_steps": 40},
    {"type": "inverse_sqrt", "num_warmup_steps": 0},
    {"type": "inverse_sqrt", "num_warmup_steps": 40, "timescale": 7},
    {"type": "cosine_with_min_lr", "num_warmup_steps": 40, "num_training_steps": 300, "min_lr": 1e-4},
    {"type": "cosine_with_min_lr", "num_warmup_steps": 0, "num_training_steps": 300, "min_lr_rate": 0.2},
    {"type": "cosine_warmup_with_min_lr", "num_warmup_steps": 40, "num_training_steps": 300, "min_lr": 1e-4},
    {
        "type": "cosine_warmup_with_min_lr",
        "num_warmup_steps": 40,
        "num_training_steps": 300,
        "min_lr_rate": 0.1,
        "warmup_lr_rate": 0.3,
    },
    *(
        {
            "type": "warmup_stable_decay",
            "num_warmup_steps": 40,
            "num_decay_steps": 90,
            "num_training_steps": 290,
            "warmup_type": warmup,
            "decay_type": decay,
            "min_lr_ratio": floor,
        }
        for warmup, decay, floor in (("linear", "cosine", 0.0), ("cosine", "1-sqrt", 0.1), ("1-sqrt", "linear", 0.25))
    ),
    {"type": "warmup_stable_decay", "num_warmup_steps": 10, "num_decay_steps": 20, "num_stable_steps": 30},
    {"type": "reduce_lr_on_plateau", "patience": 5, "factor": 0.5, "cooldown": 3, "min_lr": 1e-4},
    {"type": "reduce_lr_on_plateau", "mode": "max", "patience": 2, "threshold_mode": "abs", "threshold": 0.01},
    {"type": "greedy", "patience": 3, "min_lr": 1e-4, "max_lr": 1e-2, "factor": 0.8, "cooldown": 2, "warmup": 4},
    {"type": "greedy", "patience": 0, "min_lr": 1e-3, "max_lr": 4e-3, "factor": 0.7, "reset_start": 5},
    {"type": "greedy", "patience": 0, "min_lr": 1e-3, "factor": 0.5, "reset_start": 3, "cooldown": 4, "warmup": 2},
    {"type": "greedy", "patience": 1, "min_lr": 1e-4, "smooth": True, "window_size": 7, "threshold_mode": "rel"},
    {"type": "greedy", "mode": "max", "patience": 1, "min_lr": 1e-4, "threshold_mode": "rel", "threshold": 1e-3},
]


def trace(case: dict) -> list[float]:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=LR)
    kwargs = {name: value for name, value in case.items() if name != "type"}
    lengths = {name: kwargs.pop(name, None) for name in ("num_warmup_steps", "num_training_steps")}
    scheduler = get_scheduler(case["type"], optimizer, **lengths, scheduler_specific_kwargs=kwargs)
    by_metric = case["type"] in ("reduce_lr_on_plateau", "greedy")
    lrs = []
    for k in range(UPDATES):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([METRICS[k]] if by_metric else []))
    return lrs


if __name__ == "__main__":
    golden = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "lr": LR,
        "metrics": METRICS,
        "cases": [{"case": case, "trace": trace(case)} for case in CASES],
    }
    Path(__file__).with_name("transformers.json").write_text(json.dumps(golden) + "\n")
