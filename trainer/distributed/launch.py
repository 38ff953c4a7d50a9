"""Joining the other processes of a run, and leaving them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from .world import World


@contextmanager
def joined(world: World, timeout_seconds: float) -> Iterator[World]:
    """Run the body joined with the other processes of `world`, if there are any.

    Args:
        world: As from `World.from_environment`.
        timeout_seconds: How long a process waits for the others.
    """
    if world.is_alone:
        yield world
        return
    timeout = timedelta(seconds=timeout_seconds)
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
    # torchrun keeps its store for a restart: without a prefix, processes would read the addresses of the dead.
    attempt = PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=attempt, rank=world.rank, world_size=world.size, timeout=timeout)
    try:
        control, gradients, saves = (
            dist.new_group(timeout=timeout, backend=name) for name in ("gloo", backend, "gloo")
        )
        yield replace(world, control=control, gradients=gradients, saves=saves)
    finally:
        dist.destroy_process_group()
