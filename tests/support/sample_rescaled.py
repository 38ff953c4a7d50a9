"""Optimizers whose schedule is entered where its lr is what it was under another curve."""

import copy

import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

WARMUP_COSINE = {"peak_lr": 1e-3, "start_lr": 1e-5, "end_lr": 1e-5, "warmup_steps": 50}
FACTORIES = {
    "adamw_warmup_cosine_decay": WARMUP_COSINE,
    "adamw_cosine_schedule": {"max_lr": 1e-3, "cycle_momentum": True, "pct_start": 0.1},
    "adamw": {
        "lr": 1e-3,
        "schedule": {"type": "cosine", "num_warmup_steps": 50},
        "option_schedules": {"weight_decay": {"type": "linear"}},
    },
}


def factory(key, **changed):
    return OPTIMIZER_BUILDER_REGISTRY[key](**{**FACTORIES.get(key, {}), **changed})


def optimizer_of(steps, key="adamw_warmup_cosine_decay", **changed):
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    return module, factory(key, **changed).build(module, horizon=Horizon(total_steps=steps, steps_per_epoch=10))


def lr_of(optimizer):
    return optimizer.param_groups[0]["lr"]


def trace(pair, updates):
    """Take `updates` and return the lr of each."""
    module, optimizer = pair
    lrs = []
    for _ in range(updates):
        module(torch.ones(3, 2)).square().mean().backward()
        optimizer.step()
        lrs.append(optimizer.scheduler.get_last_lr()[0])
        optimizer.zero_grad()
    return lrs


def resumed(saved, pair, **options):
    """Load `saved`, an optimizer's state, into `pair`, entered where the saved lr is."""
    _, optimizer = pair
    optimizer.load_state_dict(copy.deepcopy(saved))
    optimizer.scheduler.resume_at_lr(float(saved["param_groups"][0]["lr"]), optimizer.param_groups, **options)
    return pair


def at_update(done, steps, key="adamw_warmup_cosine_decay", **changed):
    """Return the state of an optimizer after `done` of `steps` updates, and its lr for the coming one."""
    pair = optimizer_of(steps, key, **changed)
    trace(pair, done)
    return pair[1].state_dict(), lr_of(pair[1])
