"""Draws the figures of docs/schedules: python docs/draw_figures.py"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizer import SCHEDULE_REGISTRY, Horizon
from optimizer.charts import Panel, Series, figure
from optimizer.schedules.sampling import sample_steps

FOLDER = Path(__file__).parent / "figures"
RUN = Horizon(total_steps=1000, steps_per_epoch=100)
LR = 1e-3

DISTINGUISHING_FIELDS = ("three_phase", "decay_type")
"""Fields that are named where a figure has a schedule twice."""

FIGURES: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "basic": [
        ("warmup_cosine_decay", {"peak_lr": LR, "start_lr": 1e-5, "end_lr": 1e-4, "warmup_steps": "10%"}),
        ("one_cycle", {"max_lr": LR}),
        ("one_cycle", {"max_lr": LR, "anneal_strategy": "linear", "three_phase": True}),
        ("constant", {}),
    ],
    "hugging_face": [
        ("linear", {"num_warmup_steps": "10%"}),
        ("cosine", {"num_warmup_steps": "10%"}),
        ("cosine_with_restarts", {"num_warmup_steps": "10%", "num_cycles": 3}),
        ("polynomial", {"num_warmup_steps": "10%", "power": 2.0}),
        ("constant_with_warmup", {"num_warmup_steps": "10%"}),
        ("piecewise_constant", {"step_rules": "1:300,0.5:600,0.25:800,0.1"}),
    ],
    "transformers": [
        ("inverse_sqrt", {"num_warmup_steps": "10%"}),
        ("cosine_with_min_lr", {"num_warmup_steps": "10%", "min_lr_rate": 0.2}),
        ("cosine_warmup_with_min_lr", {"num_warmup_steps": "10%", "min_lr_rate": 0.1, "warmup_lr_rate": 0.3}),
        ("warmup_stable_decay", {"num_warmup_steps": "10%", "num_decay_steps": "30%", "decay_type": "1-sqrt"}),
        ("warmup_stable_decay", {"num_warmup_steps": "10%", "num_decay_steps": "30%", "decay_type": "1-square"}),
    ],
    "lerobot": [
        (
            "cosine_decay_with_warmup",
            {"num_warmup_steps": 300, "num_decay_steps": 1000, "peak_lr": LR, "decay_lr": 1e-4},
        ),
        ("vqbet", {"num_warmup_steps": 100, "num_vqvae_training_steps": 200}),
        ("vqbet_to_zero", {"num_warmup_steps": 100, "num_vqvae_training_steps": 200}),
        ("step", {"step_size": 400, "gamma": 0.5, "num_warmup_steps": 100}),
    ],
    "decays": [
        ("cosine_decay", {"k_decay": 2.0}),
        ("polynomial_decay", {"power": 0.5}),
        ("tanh", {}),
        ("rex", {}),
        ("exponential_decay", {"decay_steps": 200, "decay_rate": 0.5, "staircase": True}),
        ("inverse_time_decay", {"decay_steps": 200, "decay_rate": 1.0}),
    ],
    "cycles": [
        ("cosine_decay_restarts", {"first_decay_steps": 150, "m_mul": 0.7}),
    ],
    "pytorch": [
        ("StepLR", {"step_size": 300, "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.998}),
        ("CosineAnnealingWarmRestarts", {"T_0": 200}),
        ("CyclicLR", {"base_lr": 1e-4, "max_lr": LR, "step_size_up": 250, "mode": "triangular2"}),
        ("PolynomialLR", {"total_iters": 800, "power": 2.0}),
    ],
    "lightning": [("LinearWarmupCosineAnnealingLR", {"warmup_epochs": 2, "max_epochs": 10, "interval": "epoch"})],
    "composition": [
        (
            "sequence",
            {
                "schedules": [{"type": "LinearLR", "start_factor": 0.01, "total_iters": "100%"}, {"type": "rex"}],
                "milestones": ["20%"],
            },
        ),
        (
            "chain",
            {
                "schedules": [
                    {"type": "constant_with_warmup", "num_warmup_steps": "10%"},
                    {"type": "StepLR", "step_size": "30%", "gamma": 0.5},
                ]
            },
        ),
    ],
}


def line(key: str, fields: dict[str, Any], run: Horizon = RUN) -> Series:
    """Return the lr under a schedule, over the run."""
    schedule = SCHEDULE_REGISTRY[key](**fields).resolved(run)
    curve, scale = schedule.bind(LR), 1.0 if schedule.absolute else LR
    shown = ", ".join(f"{name} {value}" for name, value in fields.items() if name in DISTINGUISHING_FIELDS)
    label = f"{key}, {shown}" if shown else key
    return Series(label, [(update, curve.lr_at(update) * scale) for update in sample_steps(run.total_steps)])


def plateau() -> list[Series]:
    """Return the lr under the two schedules that a metric moves, and the metric, one report in 10 updates."""
    lines = []
    for key, fields in (
        ("ReduceLROnPlateau", {"patience": 5, "factor": 0.5}),
        ("greedy", {"patience": 2, "min_lr": 1e-5}),
    ):
        curve = SCHEDULE_REGISTRY[key](**fields).bind(LR)
        points = []
        for update in range(RUN.total_steps):
            points.append((update, curve.lr_at(update)))
            if update % 10 == 9:
                curve.report("val_loss", metric(update), update)
        lines.append(Series(key, points))
    return lines


def metric(update: int) -> float:
    """Return a validation loss that falls, stops to fall, and falls again."""
    return math.exp(-min(update, 300) / 150) + 0.02 * math.sin(update) + (0.0 if update < 700 else -update / 2e4)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    panels = {name: Panel(name, "learning rate", [line(*one) for one in lines]) for name, lines in FIGURES.items()}
    panels["plateau"] = Panel("plateau", "learning rate", plateau())
    panels["chebyshev"] = Panel("chebyshev", "learning rate", [line("chebyshev", {}, Horizon(64))])
    for name, panel in panels.items():
        figure([panel]).savefig(FOLDER / f"{name}.png", dpi=90)
