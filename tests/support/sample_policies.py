"""Policies of the tests, for `model.policy`: modules that compute their own loss."""

from typing import ClassVar

import torch
from sample_parts import Noise
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY
from trainer.interfaces.component import do_weights_follow


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
        return self.scale * error.square().mean(), {"absolute": error.abs().mean().item()}


class Pretrained(SmallPolicy):
    """A policy that notes whether saved weights follow when it is built."""

    built: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.built.append(do_weights_follow())


class Named(SmallPolicy):
    """A policy whose groups are a mapping: parameters by name."""

    optimizer_preset = staticmethod(lambda: {"type": "adamw", "params": {"lr": 1e-3}})

    def get_optim_params(self):
        return dict(self.named_parameters())


class Completed(SmallPolicy):
    """A policy whose parameters follow from the data, in several wrong ways."""

    def __init__(self, how: str = "") -> None:
        super().__init__()

    @classmethod
    def complete_params(cls, params, data):
        ways = {"misspelt": {"hwo": "x"}, "object": {"how": data}, "nothing": None}
        return ways[params["how"]]


class Recommending(SmallPolicy):
    """A policy with an optimizer of its own choice: a group for its backbone, and one without weight decay."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()

    @classmethod
    def optimizer_preset(cls, params):
        schedule = {"type": "linear"}
        options = {"lr": params.get("lr", 1e-3), "weight_decay": 0.1, "grad_clip_norm": 3.0, "schedule": schedule}
        return {"type": "adamw", "params": options}

    def get_optim_params(self):
        named = dict(self.named_parameters())
        still = [p for name, p in named.items() if ".norm." in name or name.endswith("token")]
        backbone = [p for name, p in named.items() if ".backbone." in name]
        chosen = {*still, *backbone}
        return [
            {"params": [p for p in named.values() if p not in chosen]},
            {"params": still, "weight_decay": 0.0},
            {"params": iter(backbone), "lr": 1e-5, "weight_decay": 0.1},
        ]


class Warming(Recommending):
    """Its optimizer calls the lr of its groups `peak_lr`."""

    @staticmethod
    def optimizer_preset():
        return {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-3, "start_lr": 0.0, "warmup_steps": 2}}


class Failing(Recommending):
    def get_optim_params(self):
        return {}["no_such"]


class Texts(Recommending):
    def get_optim_params(self):
        return ["model.head"]


class Misspelt(Recommending):
    def get_optim_params(self):
        return [{"params": self.parameters(), "weight_decya": 0.0}]


class Idle(SmallPolicy):
    """A policy with a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Broken(SmallPolicy):
    """A policy whose backbone takes another width than it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.model.backbone[0] = nn.Linear(5, 4)


class Silent(nn.Module):
    """A policy for demonstrations (sample_demonstrations) that cannot act."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LazyLinear(6)
        self.calls = self.resets = 0

    def predict(self, batch):
        state = batch["observation.state"].flatten(1)
        image = batch["observation.images.top"].flatten(1)
        return self.net(torch.cat([state, image], dim=1)).unflatten(1, (3, 2))

    def forward(self, batch):
        error = (self.predict(batch) - batch["action"]).square()[~batch["action_is_pad"]]
        return error.mean(), {"worst": error.max()}


class Chunks(Silent):
    """A policy that predicts chunks of actions."""

    def predict_action_chunk(self, batch):
        self.calls += 1
        return self.predict(batch)


class Selects(Silent):
    """A policy that selects one action at a time, and forgets the episode when it is told to."""

    def reset(self):
        self.resets += 1

    def select_action(self, batch):
        self.calls += 1
        return self.predict(batch)[:, 0]


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
