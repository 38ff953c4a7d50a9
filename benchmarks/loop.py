"""Whole training loops over a small model, where what is around the mathematics shows: ours, one written by hand,
Lightning's and Accelerate's. Each trains two components with two fused AdamWs on the digits."""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from accelerate.accelerator import Accelerator
from measuring import DEVICE, SHORT, machine, table
from names import BY_HAND, OURS
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trainer.builtins.digits import Digits
from trainer.config.schema import ExperimentConfig
from trainer.interfaces.dataset import DataSet, TensorSplit
from trainer.offline_trainer import OfflineTrainer

UPDATES, BATCH, ROUNDS = 20 if SHORT else 1000, 32, 1 if SHORT else 5
TENSORS = Digits().train.batch(torch.arange(len(Digits().train)))
WIDTH = 64


class Profiles(DataSet):
    """The training part of the digits, with what the model takes and nothing else."""

    def __init__(self) -> None:
        self.train = TensorSplit({name: TENSORS[name] for name in ("profile", "label")})
        self.held_out, self.statistics = None, {}


def model() -> nn.ModuleDict:
    """Return the two components."""
    encoder = nn.Sequential(nn.Linear(16, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 10))
    return nn.ModuleDict({"encoder": encoder, "head": head})


def loss_of(components: nn.ModuleDict, profile: Tensor, label: Tensor) -> Tensor:
    """Return the cross-entropy."""
    return F.cross_entropy(components["head"](components["encoder"](profile)), label)


def two_objects(components: nn.ModuleDict) -> tuple[list[Any], list[Any]]:
    """Return an optimizer and a scheduler for each component."""
    optimizers = [torch.optim.AdamW(component.parameters(), lr=1e-3, fused=True) for component in components.values()]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=UPDATES) for optimizer in optimizers]
    return optimizers, schedulers


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """Return the data as Lightning's and Accelerate's users pass it."""
    return DataLoader(TensorDataset(TENSORS["profile"], TENSORS["label"]), batch_size=BATCH, shuffle=True)


def ours() -> float:
    """Return the seconds of a run of the trainer, with metrics every 50 updates and a checkpoint at the end."""
    optim = {"type": "adamw", "params": {"lr": 1e-3, "grad_clip_norm": None, "schedule": {"type": "cosine"}}}
    mlp = {"hidden": [WIDTH]}
    with tempfile.TemporaryDirectory() as folder:
        config = ExperimentConfig.model_validate(
            {
                "data": {"type": "loop.Profiles", "batch_size": BATCH},
                "model": {
                    "components": {
                        "encoder": {"type": "mlp", "params": {"in_features": 16, "out_features": WIDTH, **mlp}},
                        "head": {"type": "mlp", "params": {"in_features": WIDTH, "out_features": 10, **mlp}},
                    },
                    "component_optims": {"encoder": optim, "head": optim},
                },
                "train": {
                    "objective": {"type": "classification", "params": {"input": "profile"}},
                    "total_steps": UPDATES,
                    "device": DEVICE,
                    "log_every": 50,
                    "run_dir": str(Path(folder) / "run"),
                },
            }
        )
        Path(folder, "run").mkdir()
        trainer = OfflineTrainer(config, Console(quiet=True))
        start = time.perf_counter()
        trainer.run()
        return time.perf_counter() - start


def by_hand() -> float:
    """Return the seconds of a loop written for this one model."""
    components = model().to(DEVICE)
    optimizers, schedulers = two_objects(components)
    start = time.perf_counter()
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(UPDATES):
        if len(order) == 0:
            order = torch.randperm(len(TENSORS["label"]))
        indices, order = order[:BATCH], order[BATCH:]
        loss = loss_of(components, *(TENSORS[name][indices].to(DEVICE) for name in ("profile", "label")))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return _seconds_since(start)


class Module(lightning.LightningModule):
    """The same for Lightning, which steps several optimizers by hand only."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.components = model()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Take an update."""
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        loss = loss_of(self.components, *batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()

    def configure_optimizers(self) -> Any:
        """Return the optimizers and the schedulers."""
        return two_objects(self.components)

    def on_train_start(self) -> None:
        """Start the clock after all set-up."""
        self.start = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop it."""
        self.seconds = _seconds_since(self.start)


def lightnings() -> float:
    """Return the seconds of Lightning's loop, with nothing beside it."""
    module = Module()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: Any = dict.fromkeys(off, False)
    trainer = lightning.Trainer(
        max_steps=2 * UPDATES, max_epochs=-1, accelerator=DEVICE, **options
    )  # it counts both optimizers' steps
    trainer.fit(module, loader())
    return module.seconds


def accelerates() -> float:
    """Return the seconds of a loop written with Accelerate."""
    accelerator: Any = Accelerator(cpu=DEVICE == "cpu")
    components = model()
    optimizers, schedulers = two_objects(components)
    prepared: Any = accelerator.prepare(components, loader(), *optimizers, *schedulers)
    components, data, optimizers, schedulers = prepared[0], prepared[1], prepared[2:4], prepared[4:]
    start, done = time.perf_counter(), 0
    while done < UPDATES:
        for profile, label in data:
            loss = loss_of(components, profile, label)
            for optimizer in optimizers:
                optimizer.zero_grad()
            accelerator.backward(loss)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            done += 1
            if done == UPDATES:
                break
    return _seconds_since(start)


def _seconds_since(start: float) -> float:
    """Return how long ago `start` was, once the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times() -> dict[str, float]:
    """Return the median seconds of an update by loop."""
    loops: dict[str, Callable[[], float]] = {
        BY_HAND: by_hand, OURS: ours, "Accelerate": accelerates, "Lightning": lightnings,
    }  # fmt: skip
    measured: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            measured[name].append(loop() / UPDATES)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{machine()}\n\n{table(times(), BY_HAND, 'us')}")
