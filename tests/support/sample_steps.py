"""Optimizers by config, modules whose parameters have many shapes, and how far two are apart."""

import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY

CAUTIOUS = {
    "adamw": ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
    "adamw without decay": ("adamw", {"lr": 0.01, "weight_decay": 0.0, "betas": [0.8, 0.95]}),
    "adamw upward": ("adamw", {"lr": 0.01, "maximize": True, "cautious_min_mean": 0.4}),
    "adam with a penalty": ("adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adam upward with a penalty": ("adam", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "sgd": ("sgd", {"lr": 0.1, "momentum": 0.9}),
    "sgd without momentum": ("sgd", {"lr": 0.1, "weight_decay": 0.1}),
    "sgd dampened": ("sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd of nesterov": ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    "warm-up and cosine": (
        "adamw_warmup_cosine_decay",
        {"peak_lr": 0.01, "start_lr": 0.001, "total_steps": 30, "warmup_steps": 4},
    ),
}


WITH_KERNELS = [
    ("adamw", {}),
    ("adamw", {"use_cautious_optimizer": True}),
    ("sgd", {"momentum": 0.9, "use_cautious_optimizer": True}),
    ("schedule_free_radam", {"silent_sgd_phase": False}),
]
"""Optimizers with custom steps, by key."""

RADAM = [
    {"lr": 0.05},
    {"lr": 0.05, "silent_sgd_phase": False, "weight_decay": 0.1},
    {"lr": 0.05, "betas": (0.95, 0.99), "r": 1.0, "weight_lr_power": 1.0, "eps": 1e-6},
    {"lr": 0.05, "foreach": False, "weight_decay": 0.1},
]


class Shapes(nn.Module):
    """Parameters of many shapes: of several blocks, of one number, not contiguous, and one seldom with a gradient."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        shapes = {"large": (30, 11), "small": (3,), "scalar": (), "odd": (7, 5), "seldom": (4,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)))
        self.turned = nn.Parameter(torch.randn(9, 16, dtype=torch.float64).to(dtype).t())


class Contiguous(Shapes):
    """Without the case that torch's fused kernel gets wrong: a gradient with other strides."""

    def __init__(self, dtype):
        super().__init__(dtype)
        del self.turned


def trained(key, params, dtype, updates=30, made=Shapes):
    """Return a module of class `made` and its optimizer after so many updates."""
    module = made(dtype)
    if isinstance(key, str):
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module)
    else:
        optimizer = key(module.parameters(), **params)
        getattr(optimizer, "train", lambda: None)()
    for update in range(updates):
        generator = torch.Generator().manual_seed(update)
        for name, p in module.named_parameters():
            gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            p.grad = gradient if name != "seldom" or update % 3 == 2 else None
        optimizer.step()
    return module, optimizer


def apart(one, other):
    """Return how far the weights of two modules are apart, against the largest of each parameter."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((p.detach() - q.detach()).abs().max() / q.detach().abs().max()) for p, q in pairs)


def cautious(name, implementation, dtype):
    key, params = CAUTIOUS[name]
    params = {"grad_clip_norm": None, **params, "use_cautious_optimizer": True, "implementation": implementation}
    return trained(key, params, dtype)
