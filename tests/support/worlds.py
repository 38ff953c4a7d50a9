"""The place of a test's worker among the others."""

from functools import cache

from torch import distributed

from trainer.distributed.world import World


@cache
def own_world():
    """Return the world of this process: one of those that `processes.Workers` has joined, or alone."""
    if not distributed.is_initialized():
        return World()
    rank, size = distributed.get_rank(), distributed.get_world_size()
    groups = {name: distributed.new_group(backend="gloo") for name in ("control", "gradients", "averages", "saves")}
    return World(rank, size, rank, **groups)
