"""A component with state of all kinds and an objective that notes its samples, for runs with tested checkpoints."""

import copy

import torch
from sample_parts import Regression
from torch import nn
from worlds import trainer_of

from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY

MLP = {"type": "mlp", "params": {"in_features": 4, "out_features": 4, "hidden": [7]}}
COMPONENTS = {
    "stateful": {"type": "stateful", "params": {"dropout": 0.1}},
    "sharded": {**MLP, "placement": "shard"},
    "frozen": {**MLP, "placement": "shard", "freeze": True},
    "plain": MLP,
    "averaging": {**MLP, "placement": "shard"},
}
WARMUP = {"type": "adamw_warmup_cosine_decay", "params": {"peak_lr": 1e-2, "start_lr": 1e-4, "warmup_steps": 3}}
SCHEDULE_FREE = {"type": "schedule_free_radam", "params": {"lr": 0.1, "silent_sgd_phase": False}}
OPTIMS = {
    "stateful": {"type": "adamw", "params": {"lr": 1e-2, "schedule": {"type": "linear"}}},
    "sharded": WARMUP,
    "plain": WARMUP,
    "averaging": SCHEDULE_FREE,
}


@MODEL_REGISTRY.register("stateful")
class Stateful(nn.Module):
    """Two layers that share their weight, a buffer of whole numbers, extra state, and dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.dropout = nn.Dropout(dropout)
        self.notes = {"scale": torch.full((3,), 1.5), "name": "kept"}

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.dropout(self.second(self.first(x)))

    def get_extra_state(self):
        return self.notes

    def set_extra_state(self, state):
        self.notes = state


@OBJECTIVE_REGISTRY.register("noting")
class Noting(Regression):
    """Notes the samples of each update, by their first number, and the learning rates."""

    def __init__(self) -> None:
        self.seen = []

    def update(self, components, batch, learner, step):
        samples = batch["x"][:, 0].tolist() if len(batch["x"]) else []
        self.seen.append([step, samples, learner.current_lrs()])
        return super().update(components, batch, learner)


def saving_config(run_dir, **changed):
    """Return the config of a run of 12 updates (5 an epoch), saved after every third."""
    model = {"components": changed.pop("components", COMPONENTS), "component_optims": changed.pop("optims", OPTIMS)}
    return {
        "plugins": ["sample_parts", "sample_saved_parts"],
        "data": {"type": "noise", "batch_size": 8},
        "model": copy.deepcopy(model),
        "train": {
            "objective": {"type": "noting"},
            "total_steps": 12,
            "save_every": 3,
            "run_dir": str(run_dir),
            "device": "cpu",
            "ema": {"decay": 0.9, "components": ["stateful", "sharded"]},
            **changed,
        },
    }


def trained(made, folder=None):
    """Train a run, and return the notes of its objective in this process."""
    trainer = trainer_of(made, folder)
    trainer.run()
    return trainer.objective.seen


def positions(trainer):
    """Return the position and the learning rates of each optimizer."""
    return {
        name: [optimizer.scheduler.last_epoch, [group["lr"] for group in optimizer.param_groups]]
        for name, optimizer in trainer.optimizers.items()
    }


def saved_again(made, folder):
    """Restore a run, and save it at once in the run directory of `made`; return `positions`."""
    trainer = trainer_of(made, folder)
    trainer.save(is_last=True)
    trainer.checkpoints.wait()
    return positions(trainer)
