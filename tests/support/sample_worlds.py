"""Runs in the workers of `processes`, and their results; this module is imported in the workers."""

import functools
import io
import json
from pathlib import Path

import torch
from rich.console import Console
from worlds import own_world

from optimizer.state import is_sharded
from trainer import load_config
from trainer.offline_trainer import OfflineTrainer


def in_float64(function):
    """Let `function` make and compute its tensors in float64."""

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return function(*arguments, **options)
        finally:
            torch.set_default_dtype(before)

    return wrapped


def built(made):
    """Return the trainer of a new run in this process's world, whose directory is there."""
    trainer = OfflineTrainer(load_config(made), Console(file=io.StringIO()), world=own_world())
    if trainer.world.is_main:
        trainer.config.train.run_dir.mkdir()
    trainer.world.barrier()
    return trainer


def whole_weights(trainer):
    """Return the weights of a run by component and name; a sharded one is gathered."""
    return {
        f"{component}.{name}": (value.full_tensor() if is_sharded(value) else value).detach().clone()
        for component, module in trainer.components.items()
        for name, value in module.named_parameters()
    }


@in_float64
def trained(made):
    """Train a run to its end; return its weights and its metrics lines."""
    trainer = built(made)
    trainer.run()
    trainer.world.barrier()  # the first process writes, and evaluates to the end
    lines = (Path(trainer.config.train.run_dir) / "metrics.jsonl").read_text().splitlines()
    return whole_weights(trainer), [json.loads(line) for line in lines]
