"""A stranger's module that leaves a mark when it is imported, and all places in a config that can name it."""

import copy

import yaml
from conftest import DIGITS

STRANGER = "from pathlib import Path\n\n(Path(__file__).parent / 'RAN').touch()\n"
CURVE = {"type": "stranger.Curve"}
ADAMW = {"type": "adamw", "params": {"lr": 1e-3}}


def optimizer(**params):
    return {"model.component_optims.head": {"type": "adamw", "params": {"lr": 1e-3, **params}}}


def of(key, **params):
    return {"model.component_optims.head": {"type": key, "params": params}}


PLACES = {
    "plugin": {"plugins": ["stranger"]},
    "data set": {"data.type": "stranger.Data"},
    "component": {"model.components.head.type": "stranger.Head"},
    "component of a package": {"model.components.head.type": "stranger.part.Head"},
    "component with a preset": {
        "model.components.head.type": "stranger.Head",
        "model.component_optims.head": {"type": "preset"},
    },
    "objective": {"train.objective.type": "stranger.Loss"},
    "environment": {"train.evaluation": {"type": "stranger.Environment"}},
    "module of an environment": {"train.evaluation": {"type": "gym", "params": {"id": "stranger:X-v0"}}},
    "optimizer": of("stranger.Optimizer"),
    "fallback of muon": of("muon", fallback={"type": "stranger.Optimizer", "lr": 1e-3}),
    "schedule": optimizer(schedule=CURVE),
    "schedule of an option": optimizer(option_schedules={"weight_decay": CURVE}),
    "schedule of several Adams": of("multi_adam", schedule=CURVE),
    "schedule of one of several Adams": of("multi_adam", optimizer_groups={"layers": {"schedule": CURVE}}),
    "schedule of the fallback": of("muon", fallback={**ADAMW["params"], "type": "adamw", "schedule": CURVE}),
    "function of a schedule": optimizer(schedule={"type": "LambdaLR", "lr_lambda": "stranger.factor"}),
    "function of a cycle": optimizer(
        schedule={"type": "CyclicLR", "base_lr": 1e-4, "max_lr": 1e-3, "scale_fn": "stranger.factor"}
    ),
}
NESTING = {
    "sequence": {"type": "sequence", "milestones": [5], "schedules": [{"type": "constant"}, CURVE]},
    "chain": {"type": "chain", "schedules": [{"type": "constant"}, CURVE]},
    "SequentialLR": {"type": "SequentialLR", "milestones": [5], "schedulers": [{"type": "ConstantLR"}, CURVE]},
    "ChainedScheduler": {"type": "ChainedScheduler", "schedulers": [{"type": "ConstantLR"}, CURVE]},
}
NESTING["sequence in a sequence"] = {**NESTING["sequence"], "schedules": [NESTING["sequence"], {"type": "constant"}]}
PLACES |= {name: optimizer(schedule=schedule) for name, schedule in NESTING.items()}


def config(tmp_path, changes):
    """Return the demo's config with `changes` at dotted places, for two updates of its own parts."""
    raw = yaml.safe_load(DIGITS.read_text())
    raw["train"] |= {"run_dir": str(tmp_path / "run"), "total_steps": 2, "device": "cpu"}
    raw["train"] |= dict.fromkeys(("save_every", "eval_every"), 2) | {"pictures": False}
    raw["model"]["component_optims"] |= dict.fromkeys(("info_embedder", "encoder"), ADAMW)
    for place, value in copy.deepcopy(changes).items():
        *parents, last = place.split(".")
        inner = raw
        for name in parents:
            inner = inner[name]
        inner[last] = value
    return raw
