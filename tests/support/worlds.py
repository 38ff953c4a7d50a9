"""The place of a test's worker among the others."""

from functools import cache

from processes import GROUP_SECONDS
from torch import distributed

from trainer.distributed.launch import with_groups
from trainer.distributed.world import World


@cache
def own_world():
    """Return the world of this process: one of those that `processes.Workers` has joined, or alone."""
    if not distributed.is_initialized():
        return World()
    return with_groups(World.from_environment(), GROUP_SECONDS)
