"""Demonstrations that pass an obstacle on either side, and components to learn them."""

import torch
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, DataSet, TensorSplit
from trainer.interfaces.features import Feature, FeatureType

CHUNK, SIDES = 4, (2.0, 6.0)
"""Each demonstration stays near one of the two sides, whatever the state is."""


@DATASET_REGISTRY.register("two_ways")
class TwoWays(DataSet):
    def __init__(self, samples: int = 64) -> None:
        generator = torch.Generator().manual_seed(1)
        sides = torch.tensor(SIDES)[torch.arange(samples) % 2]
        action = sides.view(-1, 1, 1) + 0.05 * torch.randn(samples, CHUNK, 1, generator=generator)
        is_pad = torch.arange(CHUNK) >= torch.randint(1, CHUNK + 1, (samples, 1), generator=generator)
        state = torch.randn(samples, 1, 2, generator=generator)
        tensors = {"observation.state": state, "action": action, "action_is_pad": is_pad}
        self.train = TensorSplit(tensors)
        self.held_out = TensorSplit({name: tensor[:32] for name, tensor in tensors.items()})
        self.features = {
            "observation.state": Feature(FeatureType.STATE, (2,)),
            "action": Feature(FeatureType.ACTION, (1,)),
        }
        self.statistics = {
            name: {"mean": tensor.mean(dim=(0, 1)), "std": tensor.std(dim=(0, 1))}
            for name, tensor in tensors.items()
            if name in self.features
        }


@MODEL_REGISTRY.register("towards")
class Towards(nn.Module):
    """The velocity of a straight path that ends at `end` at time 1, wherever it is now."""

    def __init__(self, end: float = 1.0) -> None:
        super().__init__()
        self.end = nn.Parameter(torch.tensor(end))

    def forward(self, state: torch.Tensor, noisy_actions: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return (self.end - noisy_actions) / (1 - time).view(-1, 1, 1)


WIRING = ["tokens = embedder(observation.state)", "velocity = action_head(tokens, noisy_actions, time)"]


def parts(dropout=0.0):
    """Return the config of the components by name."""
    return {
        "embedder": {"type": "mlp", "params": {"in_features": 2, "out_features": 16, "hidden": [16]}},
        "action_head": {
            "type": "flow_transformer",
            "params": {"action_dim": 1, "chunk": CHUNK, "dim": 16, "depth": 2, "dropout": dropout},
        },
    }


def config(run_dir, components=None, wiring=WIRING, **params):
    """Return the config of a run of twelve updates; cautious AdamW trains the head."""
    components = parts(dropout=0.2) if components is None else components
    plain = {"type": "adamw", "params": {"lr": 1e-2}}
    cautious = {
        "type": "adamw_warmup_cosine_decay",
        "params": {"peak_lr": 1e-2, "warmup_steps": 3, "use_cautious_optimizer": True},
    }
    return {
        "plugins": ["sample_two_ways"],
        "data": {"type": "two_ways", "batch_size": 16},
        "model": {
            "components": components,
            "component_optims": {name: cautious if name == "action_head" else plain for name in components},
        },
        "train": {
            "objective": {"type": "flow_matching", "params": {"wiring": wiring, **params}},
            "total_steps": 12,
            "log_every": 1,
            "run_dir": str(run_dir),
            "device": "cpu",
        },
    }
