"""Updates of the built-in policy by the trainer, and by a loop written by hand over the same batches of PushT.

`python benchmarks/policy_step.py`, on a CUDA device if there is one.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from measuring import DEVICE, machine, table
from rich.console import Console
from torch import Tensor, nn

from optimizer.config import construct
from trainer.config.schema import ExperimentConfig
from trainer.interfaces.component import MODEL_REGISTRY
from trainer.interfaces.dataset import Batch, DataSet
from trainer.loop.batches import ShuffledBatches
from trainer.offline_trainer import OfflineTrainer

UPDATES, BATCH, ROUNDS, CHUNK, DIM = 60, 32, 5, 16, 128
PUSHT = Path(__file__).parent.parent / "tests/data/pusht"
COMPONENTS = {
    "backbone": ("conv_backbone", {"dim": DIM}),
    "state_embedder": ("mlp", {"in_features": 2, "out_features": DIM}),
    "action_head": ("action_transformer", {"action_dim": 2, "chunk": CHUNK, "dim": DIM}),
}


def experiment(folder: str) -> ExperimentConfig:
    """Return the config of a run: one fused AdamW with a cosine schedule for each component."""
    optim = {"type": "adamw", "params": {"lr": 1e-4, "grad_clip_norm": None, "schedule": {"type": "cosine"}}}
    wiring = [
        "seen = backbone(observation.image)",
        "felt = state_embedder(observation.state)",
        "actions = action_head(seen, felt)",
    ]
    return ExperimentConfig.model_validate(
        {
            "data": {
                "type": "lerobot",
                "params": {
                    "root": str(PUSHT),
                    "n_obs_steps": 2,
                    "chunk": CHUNK,
                    "features": ["observation.image", "observation.state", "action"],
                    "use_imagenet_stats": False,
                },
                "batch_size": BATCH,
            },
            "model": {
                "components": {name: {"type": key, "params": params} for name, (key, params) in COMPONENTS.items()},
                "component_optims": dict.fromkeys(COMPONENTS, optim),
            },
            "train": {
                "objective": {"type": "behaviour_cloning", "params": {"wiring": wiring}},
                "total_steps": UPDATES,
                "log_every": 20,
                "run_dir": str(Path(folder) / "run"),
            },
        }
    )


def ours() -> float:
    """Return the seconds of a run of the trainer, its last checkpoint included."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "run").mkdir()
        trainer = OfflineTrainer(experiment(folder), Console(quiet=True))
        start = time.perf_counter()
        trainer.run()
        return time.perf_counter() - start


def by_hand(data: DataSet) -> float:
    """Return the seconds of a loop written for this one model."""
    made = {name: construct(MODEL_REGISTRY[key], params) for name, (key, params) in COMPONENTS.items()}
    components = nn.ModuleDict(made).to(DEVICE)
    optimizers = [torch.optim.AdamW(component.parameters(), lr=1e-4, fused=True) for component in components.values()]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=UPDATES) for optimizer in optimizers]
    batches = ShuffledBatches(data.train, BATCH, seed=0)
    statistics = {
        name: {key: data.statistics[name][key].to(DEVICE) for key in ("mean", "std")} for name in data.features
    }
    start = time.perf_counter()
    for step in range(UPDATES):
        for batch in batches.of_update(step):
            there = {name: value.to(DEVICE) for name, value in batch.items()}
            loss = loss_of(components, there, statistics)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    loss.item()  # waits for the device
    return time.perf_counter() - start


def loss_of(components: nn.ModuleDict, batch: Batch, statistics: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """Return the mean absolute error of the actions inside of the episodes."""

    def normalized(name: str, value: Tensor) -> Tensor:
        mean, std = (statistics[name][key] for key in ("mean", "std"))
        scaled: Tensor = (value - mean) / (std + 1e-8)
        return scaled

    seen = components["backbone"](normalized("observation.image", batch["observation.image"].float() / 255))
    felt = components["state_embedder"](normalized("observation.state", batch["observation.state"]))
    error = (components["action_head"](seen, felt) - normalized("action", batch["action"])).abs().mean(dim=2)
    inside = ~batch["action_is_pad"]
    loss: Tensor = ((error * inside).sum(dim=1) / inside.sum(dim=1)).mean()
    return loss


def times() -> dict[str, float]:
    """Return the median seconds of an update by loop. They take turns, in an order of chance."""
    with tempfile.TemporaryDirectory() as folder:
        data: DataSet = experiment(folder).data.make("data")
    loops = {"written by hand": lambda: by_hand(data), "innerstep": ours}
    measured: dict[str, list[float]] = {name: [] for name in loops}
    order, chance = list(loops), random.Random(0)
    for _ in range(ROUNDS):
        chance.shuffle(order)
        for name in order:
            measured[name].append(loops[name]() / UPDATES)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


if __name__ == "__main__":
    print(f"{machine()}\n\n{table(times(), 'written by hand')}")
