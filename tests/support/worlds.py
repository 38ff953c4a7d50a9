"""The place of a test's worker among the others."""

from functools import cache

from torch import distributed

from trainer.distributed.world import World


@cache
def own_world():
    """Return the world of this process, one of those that `processes.Workers` has joined."""
    group = distributed.group.WORLD
    return World(distributed.get_rank(), distributed.get_world_size(), control=group, gradients=group)
