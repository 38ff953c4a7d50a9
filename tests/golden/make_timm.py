"""Writes timm.json: the lr of 300 updates under schedules of the installed timm and pytorch_optimizer.

Run it with both installed (the tests themselves do not need them): python tests/golden/make_timm.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from pytorch_optimizer import get_chebyshev_schedule, get_wsd_schedule
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, TanhLRScheduler

LR, UPDATES = 3e-3, 300


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=LR)


def timm_trace(cls: type, **options: float) -> list[float]:
    adamw = optimizer()
    scheduler = cls(adamw, t_in_epochs=False, **options)
    scheduler.step_update(0)  # until its first step timm leaves the optimizer's lr as it is
    lrs = []
    for k in range(UPDATES):
        lrs.append(adamw.param_groups[0]["lr"])
        scheduler.step_update(k + 1)
    return lrs


def torch_trace(make: object, **options: float) -> list[float]:
    adamw = optimizer()
    scheduler = make(adamw, **options)
    lrs = []
    for _ in range(UPDATES):
        lrs.append(float(adamw.param_groups[0]["lr"]))
        adamw.step()
        scheduler.step()
    return lrs


WSD = {"num_warmup_steps": 40, "num_stable_steps": 100, "num_decay_steps": 120}
CASES = [
    ({"type": "cosine_decay", "k_decay": 1.5}, timm_trace(CosineLRScheduler, t_initial=300, k_decay=1.5)),
    ({"type": "tanh"}, timm_trace(TanhLRScheduler, t_initial=300)),
    ({"type": "tanh", "lb": -4.0, "ub": 4.0}, timm_trace(TanhLRScheduler, t_initial=300, lb=-4.0, ub=4.0)),
    (
        {"type": "polynomial_decay", "power": 0.5, "k_decay": 2.0},
        timm_trace(PolyLRScheduler, t_initial=300, power=0.5, k_decay=2.0),
    ),
    (
        {"type": "cosine_decay_restarts", "first_decay_steps": 40, "t_mul": 1.5, "m_mul": 0.5},
        timm_trace(CosineLRScheduler, t_initial=40, cycle_mul=1.5, cycle_decay=0.5, cycle_limit=99),
    ),
    (
        {"type": "cosine_decay_restarts", "first_decay_steps": 40, "t_mul": 1.0, "cycle_limit": 3},
        timm_trace(CosineLRScheduler, t_initial=40, cycle_mul=1.0, cycle_limit=3),
    ),
    *(
        (
            {"type": "warmup_stable_decay", **WSD, "decay_type": decay},
            torch_trace(get_wsd_schedule, **WSD, cooldown_type=decay),
        )
        for decay in ("1-sqrt", "1-square", "linear")
    ),
    ({"type": "chebyshev"}, [*torch_trace(get_chebyshev_schedule, num_epochs=300)[2:], None, None]),
]

if __name__ == "__main__":
    golden = {
        "timm": version("timm"),
        "pytorch_optimizer": version("pytorch_optimizer"),
        "torch": torch.__version__,
        "lr": LR,
        "cases": [{"case": case, "trace": trace} for case, trace in CASES],
    }
    Path(__file__).with_name("timm.json").write_text(json.dumps(golden) + "\n")
