"""Policies of the tests, for `model.policy`: modules that compute their own loss."""

import torch
from sample_parts import Noise
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY


class Inner(nn.Module):
    """The layers. In train mode a second encoder adds what it sees of the target, as in ACT."""

    def __init__(self, width, dropout):
        super().__init__()
        self.head = nn.Linear(width, width)
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        self.vae_encoder = nn.Linear(width, width)
        self.vae_scale = nn.Parameter(torch.ones(width))
        self.token = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("offset", torch.linspace(0.0, 0.1, width))
        self.register_buffer("scratch", torch.zeros(width), persistent=False)

    def forward(self, x, y=None):
        seen = self.backbone(x + self.offset) + self.token
        if self.training:
            seen = seen + self.vae_scale * self.vae_encoder(y)
        return self.head(self.dropout(self.norm(seen)))


@MODEL_REGISTRY.register("small_policy")
class SmallPolicy(nn.Module):
    """Layers in a container, and a loss."""

    def __init__(self, width: int = 4, dropout: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.model = Inner(width, dropout)

    def forward(self, batch):
        error = self.model(batch["x"], batch["y"]) - batch["y"]
        return self.scale * error.square().mean(), {"absolute": error.abs().mean().item(), "names": ["x"]}


PARTS = {
    "backbone": "model.backbone",
    "vae": ["model.vae_encoder*", "model.vae_scale"],
}
"""A part of one submodule, and one of a submodule and a parameter."""

ADAMW = {"type": "adamw", "params": {"lr": 1e-2, "implementation": "foreach"}}


def policy_config(run_dir, policy=None, optims=None, *, plugins=(), **train):
    """Return the config of twelve updates of a policy; `policy` has its fields beside the type."""
    policy = {"type": "small_policy", **(policy or {})}
    names = ["policy", *policy.get("parts", {})]
    return {
        "plugins": ["sample_policies", *plugins],
        "data": {"type": "noise", "batch_size": 8},
        "model": {"policy": policy, "component_optims": dict.fromkeys(names, ADAMW) if optims is None else optims},
        "train": {"total_steps": 12, "log_every": 1, "run_dir": str(run_dir), "device": "cpu", **train},
    }


__all__ = ["ADAMW", "DATASET_REGISTRY", "PARTS", "Noise", "SmallPolicy", "policy_config"]
