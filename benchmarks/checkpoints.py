"""What checkpoints cost: 300 MB of weights and optimizer state, saved between updates and beside them, and loaded,
against torch.save and torch.load of the same. Medians of interleaved rounds, one process."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import Functions, machine, medians, table
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer import checkpoint
from trainer.checkpoint_files import complete_checkpoints, verify
from trainer.config import TrainConfig
from trainer.saving import Saving

SYNCHRONOUS = "torch.save"
LOADED = "torch.load"


class State:
    """Three components of 8.4 million parameters each, and their optimizers after one update."""

    def __init__(self) -> None:
        names = ("backbone", "embedder", "head")
        self.components = nn.ModuleDict(
            {name: nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))) for name in names}
        )
        factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw"]
        factory = factory(lr=1e-3)
        self.optimizers = {name: factory.build(component) for name, component in self.components.items()}
        for parameter in self.components.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in self.optimizers.values():
            optimizer.step()

    def contents(self, step: int) -> dict[str, dict[str, object]]:
        """Return the files of a checkpoint of `step` updates."""
        names = ("data", "horizon", "components", "optimizers", "scaler", "train")
        progress = checkpoint.Progress(step, {name: {} for name in names})
        return checkpoint.contents(self.components, self.optimizers, progress)

    def plain(self) -> dict[str, object]:
        """Return the same as torch.save takes it."""
        return {
            "model": self.components.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_plain(self, path: Path) -> None:
        """Load what torch.save wrote."""
        saved = torch.load(path, weights_only=True)
        self.components.load_state_dict(saved["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])

    def load(self, folder: Path) -> None:
        """Check a checkpoint of ours and load it."""
        verify(folder)
        for name, component in self.components.items():
            checkpoint.load_weights(folder / name, component)
            checkpoint.load_optimizer(folder / name, self.optimizers[name])


def saver(folder: Path, asynchronous: bool) -> Saving:
    """Return what a trainer saves with, that keeps one checkpoint."""
    folder.mkdir()
    fields = {"objective": {"type": "classification"}, "total_steps": 1, "run_dir": folder}
    return Saving(TrainConfig.model_validate(fields | {"save_async": asynchronous, "keep_last": 1}), print)


def contenders(folder: Path) -> tuple[Functions, Functions]:
    """Return functions that save, and functions that load, by name."""
    state, steps = State(), iter(range(10**6))
    between, beside = saver(folder / "between", False), saver(folder / "beside", True)
    plain = folder / "plain.pt"

    def save_flushed() -> None:
        with plain.open("wb") as file:
            torch.save(state.plain(), file)
            os.fsync(file.fileno())

    def save_between() -> None:
        step = next(steps)
        between.save(step, state.contents(step))

    def stall() -> None:
        step = next(steps)
        beside.save(step, state.contents(step))

    saves: Functions = {
        SYNCHRONOUS: lambda: torch.save(state.plain(), plain),
        "torch.save, then fsync": save_flushed,
        "ours: files, checksums, fsync": save_between,
        "ours with `save_async`: how long training waits": stall,
        "the rest of that, beside training": beside.wait,
    }
    loads: Functions = {
        f"{LOADED}, into model and optimizers": lambda: state.load_plain(plain),
        "ours: checksums, into model and optimizers": lambda: state.load(
            complete_checkpoints(folder / "between" / "checkpoints")[0]
        ),
    }
    return saves, loads


def measured(rounds: int = 9) -> str:
    """Return tables of medians."""
    with tempfile.TemporaryDirectory() as folder:
        saves, loads = contenders(Path(folder))
        saved = table(medians(saves, rounds), SYNCHRONOUS)
        loaded = table(medians(loads, rounds), next(iter(loads)))
    return f"{saved}\n\n{loaded}"


if __name__ == "__main__":
    print(f"{machine()}\n\n{measured()}")
