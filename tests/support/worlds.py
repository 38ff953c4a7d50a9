"""The place of a test's worker among the others, and its trainer of a run."""

from functools import cache
from pathlib import Path

from processes import GROUP_SECONDS
from rich.console import Console
from torch import distributed

from trainer import load_config
from trainer.distributed.launch import with_groups
from trainer.distributed.world import World
from trainer.offline_trainer import OfflineTrainer


@cache
def own_world():
    """Return the world of this process: one of those that `processes.Workers` has joined, or alone."""
    if not distributed.is_initialized():
        return World()
    return with_groups(World.from_environment(), GROUP_SECONDS)


def trainer_of(made, folder=None, console=None):
    """Return this worker's trainer of a run: of a new one, or restored from the checkpoint in `folder`."""
    world = own_world()
    trainer = OfflineTrainer(load_config(made), console or Console(quiet=True), folder is not None, world)
    if world.is_main:
        trainer.config.train.run_dir.mkdir(exist_ok=True)
    if folder is not None:
        trainer.restore(Path(folder))
    world.barrier()
    return trainer
