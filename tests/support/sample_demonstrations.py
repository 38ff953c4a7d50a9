"""A data set of demonstrations in memory, with features and statistics, as a robot's would be."""

import torch

from trainer import DATASET_REGISTRY, DataSet, TensorSplit
from trainer.interfaces.features import Feature, FeatureType

STATE, IMAGE, EFFORT, ACTION = "observation.state", "observation.images.top", "observation.effort", "action"
EPISODE = 12
"""Frames of an episode."""


@DATASET_REGISTRY.register("demonstrations")
class Demonstrations(DataSet):
    """Episodes in which the action is a fixed function of state and frame; `observation.effort` never changes."""

    def __init__(self, episodes: int = 4, n_obs_steps: int = 2, chunk: int = 3, size: int = 8) -> None:
        self.features = {
            STATE: Feature(FeatureType.STATE, (3,)),
            IMAGE: Feature(FeatureType.VISUAL, (3, size, size)),
            EFFORT: Feature(FeatureType.STATE, (1,)),
            ACTION: Feature(FeatureType.ACTION, (2,)),
        }
        frames = recorded(episodes, size)
        self.statistics = {name: statistics_of(name, values) for name, values in frames.items()}
        self.train = TensorSplit(windows(frames, n_obs_steps, chunk))
        self.held_out = TensorSplit(windows(recorded(2, size, seed=1), n_obs_steps, chunk))


def recorded(episodes, size, seed=0):
    """Return the frames of all episodes (episodes, EPISODE, …) by feature."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(episodes, EPISODE, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 2
    image = torch.randint(0, 256, (episodes, EPISODE, 3, size, size), generator=generator, dtype=torch.uint8)
    effort = torch.full((episodes, EPISODE, 1), 7.0)
    action = torch.stack([100 * state.mean(-1), image.float().mean((-3, -2, -1))], dim=-1)
    return {STATE: state, IMAGE: image, EFFORT: effort, ACTION: action}


def statistics_of(name, values):
    """Return the statistics of frames (episodes, EPISODE, …) as a data set has them, one value a channel for images."""
    flat = values.flatten(0, 1).double()
    if name == IMAGE:
        flat = (flat / 255).movedim(1, -1).flatten(0, 2)
    quantiles = {f"q{percent:02}": flat.quantile(percent / 100, dim=0) for percent in (1, 10, 90, 99)}
    found = {"mean": flat.mean(0), "std": flat.std(0), "min": flat.amin(0), "max": flat.amax(0), **quantiles}
    return {key: value.float().reshape(-1, 1, 1) if name == IMAGE else value.float() for key, value in found.items()}


def windows(frames, n_obs_steps, chunk):
    """Return one sample for each frame, with the observations before it and the actions after it, as a batch."""
    now = torch.arange(EPISODE)
    before = (now[:, None] + torch.arange(1 - n_obs_steps, 1)).clamp(min=0)
    after = now[:, None] + torch.arange(chunk)
    batch = {name: values[:, before].flatten(0, 1) for name, values in frames.items() if name != ACTION}
    is_pad = (after >= EPISODE).repeat(len(frames[ACTION]), 1)
    return {**batch, ACTION: frames[ACTION][:, after.clamp(max=EPISODE - 1)].flatten(0, 1), f"{ACTION}_is_pad": is_pad}


WIRING = [
    f"seen = backbone({IMAGE})",
    f"felt = embedder({STATE})",
    "actions = head(seen, felt)",
]
COMPONENTS = {
    "backbone": {"type": "conv_backbone", "params": {"width": 8, "keypoints": 2, "dim": 8, "pool": 1}},
    "embedder": {"type": "mlp", "params": {"in_features": 3, "out_features": 8, "hidden": [8]}},
    "head": {
        "type": "action_transformer",
        "params": {"action_dim": 2, "chunk": 3, "dim": 8, "depth": 1, "heads": 2},
    },
}


def policy_config(run_dir, params=None, components=None, objective="behaviour_cloning", lr=1e-3, **train):
    """Return the config of a policy's short run on demonstrations."""
    components = COMPONENTS if components is None else components
    return {
        "plugins": ["sample_demonstrations"],
        "data": {"type": "demonstrations", "batch_size": 16},
        "model": {
            "components": components,
            "component_optims": {name: {"type": "adamw", "params": {"lr": lr}} for name in components},
        },
        "train": {
            "objective": {"type": objective, "params": {"wiring": WIRING} if params is None else params},
            "total_steps": 12,
            "log_every": 1,
            "run_dir": str(run_dir),
            "device": "cpu",
            **train,
        },
    }
