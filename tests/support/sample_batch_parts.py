"""Components and objectives with statistics over a batch, as in a user's module, and the results of runs with them."""

import json
from pathlib import Path

import torch
from rich.console import Console
from sample_worlds import in_float64
from torch import nn
from worlds import own_world

from optimizer.state import is_sharded
from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY, Objective, Outcome, load_config
from trainer.builtins.modules import MLP
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.metrics_file import TIMED

NORMS = {
    "batch": lambda: nn.BatchNorm1d(5),
    "cumulative": lambda: nn.BatchNorm1d(5, momentum=None),
    "untracked": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "lazy": nn.LazyBatchNorm1d,
}


@MODEL_REGISTRY.register("batch_normed")
class BatchNormed(nn.Module):
    """Two layers with a norm between them. No gradient is zero in theory."""

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), NORMS[norm](), nn.Linear(5, 4))

    def forward(self, x):
        return self.layers(x)


@MODEL_REGISTRY.register("image_normed")
class ImageNormed(nn.Module):
    """Norms over the values of images of 2 × 2, so that one sample is enough."""

    def __init__(self) -> None:
        super().__init__()
        across, within = nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Tanh(), within, nn.Conv2d(3, 3, 1), nn.Tanh(), across)

    def forward(self, x):
        return self.layers(x.reshape(-1, 1, 2, 2)).mean(1).reshape(-1, 4)


@MODEL_REGISTRY.register("following")
class Following(nn.Linear):
    """Its buffer follows the samples that it is given, as a codebook does."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.seen.lerp_(x.detach().mean(0), 0.1)
        return super().forward(x)


@MODEL_REGISTRY.register("wide_mlp")
class WideMLP(MLP):
    """Computes in the type of its weights, whatever comes in."""

    def forward(self, *inputs):
        dtype = next(self.parameters()).dtype
        return super().forward(*(each.to(dtype) for each in inputs))


@OBJECTIVE_REGISTRY.register("scaled")
class Scaled(Objective):
    """A loss whose scale is a mean over the batch, with or without its gradient; two forward passes an update."""

    def __init__(self, scale: str = "none") -> None:
        self._scale = scale

    def losses(self, components, batch):
        error = self._error(components, batch)
        return Outcome({"error": error.mean()}, {"squared": error.square().mean()})

    def update(self, components, batch, learner):
        error = self._error(components, batch)
        with torch.no_grad():
            self._error(components, batch)
        loss = error.mean()
        if self._scale != "none":
            loss = loss / learner.mean(error if self._scale == "with gradient" else error.detach()).exp()
        learner.step(loss)
        return Outcome({"error": loss}, lambda: {"squared": error.square().mean()})

    def _error(self, components, batch):
        y = batch["x"]
        for component in components.values():
            y = component(y)
        return (y - batch["y"]).abs()


def built(made):
    """Return the trainer of a new run in this process's world, whose directory is there."""
    trainer = OfflineTrainer(load_config(made), Console(quiet=True), world=own_world())
    if trainer.world.is_main:
        trainer.config.train.run_dir.mkdir()
    trainer.world.barrier()
    return trainer


@in_float64
def run_of(made):
    """Train a run to its end; return its weights and statistics, and its metrics lines without times."""
    trainer = built(made)
    trainer.run()
    trainer.world.barrier()  # the main process writes the last line
    lines = map(json.loads, (Path(trainer.config.train.run_dir) / "metrics.jsonl").read_text().splitlines())
    tensors = {
        name: (value.full_tensor() if is_sharded(value) else value).detach().clone()
        for name, value in trainer.components.state_dict().items()
    }
    return tensors, [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def assert_same_runs(runs, alone):
    """Compare the results of `run_of` in each process with those in one, but for rounding."""
    for tensors, lines in runs:
        _assert_close(tensors, alone[0])
        for line, expected in zip(lines, alone[1], strict=True):
            _assert_close(line, expected)


def _assert_close(own, alone):
    """Compare lines of metrics, or dicts of tensors."""
    assert own.keys() == alone.keys()
    for key, value in alone.items():
        if isinstance(value, str):
            assert own[key] == value
        else:
            torch.testing.assert_close(own[key], value, rtol=1e-11, atol=1e-11, msg=f"{key}: {own[key]}, not {value}")
