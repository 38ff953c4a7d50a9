"""What checkpoints cost: 300 MB of weights and optimizer state, saved between updates and beside them, and loaded,
against torch.save and torch.load of the same. Medians of interleaved rounds, one process."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from measuring import DEVICE, SHORT, machine, medians, table
from names import SAVE, STALL, TORCH_SAVE
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from trainer.checkpoint.contents import Progress, checkpoint_files, load_component, load_optimizer
from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.checkpoint.manager import CheckpointManager
from trainer.config.schema import TrainConfig

SIDE = 64 if SHORT else 1024


class State:
    """Three components of 8.4 million parameters each, and their optimizers after one update."""

    def __init__(self) -> None:
        names = ("backbone", "embedder", "head")
        self.components = nn.ModuleDict(
            {name: nn.Sequential(*(nn.Linear(SIDE, SIDE) for _ in range(8))) for name in names}
        ).to(DEVICE)
        factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw"]
        factory = factory(lr=1e-3)
        self.optimizers = {name: factory.build(component) for name, component in self.components.items()}
        for parameter in self.components.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in self.optimizers.values():
            optimizer.step()

    def contents(self, step: int) -> dict[str, dict[str, object]]:
        """Return the files of a checkpoint of `step` updates."""
        names = ("data", "horizon", "components", "config", "scaler")
        progress = Progress(step, {name: {} for name in names})
        return checkpoint_files(self.components, self.optimizers, {}, progress)

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
            load_component(folder / name, component)
            load_optimizer(folder / name, self.optimizers[name])


class Savers:
    """Functions that save `state` each into a folder of its own, by name."""

    def __init__(self, state: State, folder: Path) -> None:
        self._state, self._step = state, 0
        self.folders = {name: folder / name for name in ("plain", "flushed", "between", "beside")}
        for path in self.folders.values():
            path.mkdir()
        self._savings = {name: _saving(self.folders[name], name == "beside") for name in ("between", "beside")}
        self.functions: dict[str, tuple[str, Callable[[], object]]] = {
            TORCH_SAVE: ("plain", self._plain),
            "torch.save, then fsync": ("flushed", self._flushed),
            SAVE: ("between", lambda: self._ours("between")),
            STALL: ("beside", lambda: self._ours("beside")),
            "the rest of that, beside training": ("", self._savings["beside"].wait),
        }

    def clear(self, name: str) -> None:
        """Remove what was saved into a folder: everyone writes where as much was just removed."""
        for path in self.folders[name].iterdir() if name else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _plain(self) -> None:
        torch.save(self._state.plain(), self.folders["plain"] / "state.pt")

    def _flushed(self) -> None:
        with (self.folders["flushed"] / "state.pt").open("wb") as file:
            torch.save(self._state.plain(), file)
            file.flush()
            os.fsync(file.fileno())

    def _ours(self, name: str) -> None:
        self._step += 1
        self._savings[name].save(self._step, self._state.contents(self._step))


def _saving(folder: Path, asynchronous: bool) -> CheckpointManager:
    fields = {"objective": {"type": "classification"}, "total_steps": 1, "run_dir": folder}
    return CheckpointManager(TrainConfig.model_validate(fields | {"save_async": asynchronous}), print)


def saved(savers: Savers, rounds: int) -> dict[str, float]:
    """Return the median time of each way to save, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in savers.functions}
    for number in range((2 if SHORT else rounds) + 2):  # two for warming up
        for name, (folder, save) in savers.functions.items():
            savers.clear(folder)
            start = time.perf_counter()
            save()
            times[name] += [time.perf_counter() - start] if number > 1 else []
    return {name: statistics.median(measured) for name, measured in times.items()}


def times(rounds: int = 9) -> dict[str, dict[str, float]]:
    """Return the median seconds of `saves` and `loads`."""
    with tempfile.TemporaryDirectory() as folder:
        state = State()
        savers = Savers(state, Path(folder))
        saves = saved(savers, rounds)
        plain = savers.folders["plain"] / "state.pt"
        ours = complete_checkpoints(savers.folders["between"] / "checkpoints")[0]
        loads = {
            "torch.load, into model and optimizers": lambda: state.load_plain(plain),
            "ours: checksums, into model and optimizers": lambda: state.load(ours),
        }
        loaded = medians(loads, rounds)
    return {"saves": saves, "loads": loaded}


def tables(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the tables of saves and loads."""
    return "\n\n".join(table(each, next(iter(each))) for each in found.values())


if __name__ == "__main__":
    print(f"{machine()}\n\n{tables(times())}")
