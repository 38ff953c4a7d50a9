"""Every key that builds one optimizer, with its required parameters, and functions that take steps with it."""

from importlib.util import find_spec

import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

PATHS = ["pytorch_optimizer.Lion", "heavyball.AdamW"]
BY_PATH = [path for path in PATHS if find_spec(path.split(".")[0]) is not None]
FALLBACK = " with a fallback"  # a key goes by its name and this, where it is tested in both ways
ONE_EACH = set(OPTIMIZER_BUILDER_REGISTRY) - {"multi_adam", "xvla-adamw"}
"""multi_adam builds several of `adam`, and xvla-adamw does not build without names: they have their own tests."""
KEYS = [*sorted(ONE_EACH), *BY_PATH, "muon" + FALLBACK]
PARAMS = {  # what a key cannot do without; the others build from nothing
    "adamw_warmup_cosine_decay": {"peak_lr": 1e-2, "start_lr": 1e-4, "end_lr": 1e-3, "warmup_steps": 5},
    "adamw_cosine_schedule": {"max_lr": 1e-2, "cycle_momentum": True},
    "pytorch_optimizer.Lion": {"lr": 1e-3},
    "muon" + FALLBACK: {"fallback": {"type": "adamw"}},
}
HORIZON = Horizon(total_steps=30, steps_per_epoch=10)


def registered(key):
    return OPTIMIZER_BUILDER_REGISTRY[key.removesuffix(FALLBACK)]


class Looked(nn.Module):
    """Two tables, of whose rows a batch looks a few up."""

    def __init__(self, sparse):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(20, 3, sparse=sparse), nn.Embedding(20, 3, sparse=sparse)])

    def __getitem__(self, index):
        return self.tables[index // 2]  # 0 and 2, as in the other models

    def forward(self, x):
        rows = x.abs().mul(10).long().clamp(max=19)
        return self.tables[0](rows) * 2 + self.tables[1](rows)


def trainable(key, seed=0):
    """Return a model that the key's optimizer can train; it has parts 0 and 2."""
    torch.manual_seed(seed)
    if key == "sparseadam":
        return Looked(sparse=True)
    bias = key != "muon"  # Muon takes matrices only
    return nn.Sequential(nn.Linear(4, 8, bias=bias), nn.Tanh(), nn.Linear(8, 2, bias=bias))


def built(factory, params):
    optimizer = factory.build(params, horizon=HORIZON)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def update(module, optimizer, step):
    p = next(module.parameters())
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step)).to(p.device, p.dtype)

    def closure():
        optimizer.zero_grad()
        loss = module(x).square().mean()
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    optimizer.zero_grad()


HEAVYBALLS_COUNTERS = {"__class__", "step", "step_count", "prev_lr"}  # numbers here, tensors there


def options(optimizer):
    """Return the values of the class's options and of the schedule's in each group."""
    not_here = {"differentiable", *HEAVYBALLS_COUNTERS}  # that one torch adds to the defaults when it loads
    kept = {*optimizer.defaults, "initial_lr", "schedule_position"} - not_here
    return [{name: value for name, value in group.items() if name in kept} for group in optimizer.param_groups]
