"""Optimizers to step together, and one after the other."""

from itertools import pairwise

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

ADAMW = {"lr": 0.1, "grad_clip_norm": 0.5, "schedule": {"type": "cosine"}}
CURVE = {"peak_lr": 0.1, "warmup_steps": 2}
MIXED = [
    ("adamw", ADAMW),
    ("adamw", ADAMW | {"grad_clip_norm": 100.0, "weight_decay": 0.3}),
    ("adamw", ADAMW | {"grad_clip_norm": None, "betas": (0.5, 0.9), "no_decay": ["1"]}),
    ("adam", ADAMW | {"weight_decay": 0.1, "maximize": True}),
    ("adamw_warmup_cosine_decay", CURVE),
    ("adamw_cosine_schedule", {"max_lr": 0.1}),
    ("sgd", ADAMW | {"momentum": 0.9}),
    ("schedule_free_radam", {"lr": 0.1}),
    ("adamw", ADAMW | {"use_cautious_optimizer": True}),
    ("adamw", ADAMW | {"implementation": "single"}),
    ("adamw", ADAMW),
    ("adamw", ADAMW | {"option_schedules": {"weight_decay": {"type": "linear"}}}),
]

COMPILED = ADAMW | {"implementation": "compiled"}

KINDS = [ADAMW, pytest.param(COMPILED, marks=NO_COMPILER)]


def built(specs, dtype=torch.float32):
    torch.manual_seed(5)
    modules = [nn.ParameterList([torch.randn(n, dtype=dtype) for n in (3, 17)]) for _ in specs]
    optimizers = [
        OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module, horizon=Horizon(20))
        for (key, params), module in zip(specs, modules, strict=True)
    ]
    for optimizer in optimizers:
        getattr(optimizer, "train", lambda: None)()
    return optimizers, [[*module.parameters()] for module in modules]


def one_by_one(optimizers):
    for optimizer in optimizers:
        optimizer.step()


def plain(state):
    """Return numbers and tensors of a state dict."""
    groups = [
        {k: v for k, v in group.items() if isinstance(v, float | int | tuple) and k != "params"}
        for group in state["param_groups"]
    ]
    return [*state["state"].values()], groups, state["scheduler"]["last_epoch"]


def assert_equal(*runs):
    for first, second in pairwise(runs):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
