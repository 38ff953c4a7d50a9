"""Runs in the workers of `processes`, and their results; this module is imported in the workers."""

import functools
import io
import json
from contextlib import contextmanager

import pytest
import torch
from rich.console import Console

from optimizer.state import is_sharded
from trainer import load_config
from trainer.distributed import gradients
from trainer.distributed.launch import joined
from trainer.distributed.world import World
from trainer.offline_trainer import OfflineTrainer

TIMEOUT_SECONDS = 20


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


@contextmanager
def trainer_of(made):
    """Give the trainer of a new run, which all workers train; outside of workers that of a single process."""
    with joined(World.from_environment(), TIMEOUT_SECONDS) as world:
        trainer = OfflineTrainer(load_config(made), Console(file=io.StringIO()), world=world)
        if world.is_main:
            trainer.config.train.run_dir.mkdir()
        world.barrier()
        yield trainer


def whole_weights(trainer):
    """Return the weights of a run by component and name; a sharded one is gathered."""
    return {
        f"{component}.{name}": (value.full_tensor() if is_sharded(value) else value).detach().clone()
        for component, module in trainer.components.items()
        for name, value in module.named_parameters()
    }


@in_float64
def trained(made, constants=None):
    """Train a run to its end.

    made: the config.
    constants: other values for those in `trainer.distributed.gradients`.

    Return its weights, its metrics lines, and how many updates each component has skipped.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (constants or {}).items():
            patch.setattr(gradients, name, value)
        with trainer_of(made) as trainer:
            trainer.run()
            trainer.world.barrier()  # the first process evaluates to the end, and writes
            lines = (trainer.config.train.run_dir / "metrics.jsonl").read_text().splitlines()
            return whole_weights(trainer), [json.loads(line) for line in lines], dict(trainer.updater.skipped)


def failed(made, constants=None):
    """Return the type and the message of the error that ends a run."""
    try:
        trained(made, constants)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""
