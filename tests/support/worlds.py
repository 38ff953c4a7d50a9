"""The place of a test's worker among the others."""

from functools import cache

from torch import distributed

from trainer.distributed.world import World


@cache
def own_world():
    """Return the world of this process: one of those that `processes.Workers` has joined, or alone."""
    if not distributed.is_initialized():
        return World()
    group, saves = distributed.group.WORLD, distributed.new_group(backend="gloo")
    return World(distributed.get_rank(), distributed.get_world_size(), control=group, gradients=group, saves=saves)
