"""Joining the other processes of a run, and leaving them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.distributed.rendezvous import rendezvous

from ..errors import ConfigError, PeerError
from ..runtime.parents import end_with_parent
from ..runtime.signals import StoppedBySignal
from .environment import Environment
from .failures import Failures, failure_of, post
from .world import World

_TORCHRUN_SECONDS = 60.0
"""How long a process tries to reach the store of torchrun, which is there before it."""
_EARLY_SECONDS = 5.0
"""The same for a process that fails before it joins the others."""

_joined = 0
"""How often this process has joined others: each time under other keys of the store."""


@contextmanager
def joined(world: World, timeout_seconds: float) -> Iterator[World]:
    """Run the body joined with the other processes of `world`, if there are any.

    A process group that is there already is used, and stays.

    Args:
        world: As from `World.from_environment`.
        timeout_seconds: How long a process waits for the others.

    Raises:
        PeerError: Another process failed, is gone, or hangs.
        ConfigError: The others cannot be reached.
    """
    if world.is_alone:
        yield world
        return
    environment = Environment.read()
    if environment.has_torchrun:
        end_with_parent(signal.SIGTERM)
    store = _store(environment, timeout_seconds)
    keeper = None if environment.shares_store else 0
    failures = Failures(store, world.rank, world.size, timeout_seconds, keeper)
    is_ours = not dist.is_initialized()
    try:
        with _naming_failures(failures):
            together = replace(_connected(world, store, timeout_seconds), failures=failures)
            yield together
            together.barrier()  # the store stays until all are done
    finally:
        failures.close()
        if is_ours and dist.is_initialized() and not torch.cuda.is_available():
            dist.destroy_process_group()


def with_groups(world: World, timeout_seconds: float, backend: str = "gloo") -> World:
    """Return `world` with its groups. All processes call, which torch.distributed has joined.

    Args:
        world: As from `World.from_environment`.
        timeout_seconds: How long a process waits for the others.
        backend: Of the groups for tensors on the device of the run.
    """
    timeout = timedelta(seconds=timeout_seconds)
    control, saves, reports = (dist.new_group(timeout=timeout, backend="gloo") for _ in range(3))
    gradients, averages = (dist.new_group(timeout=timeout, backend=backend) for _ in range(2))
    of_values = replace(world, control=control, saves=saves, reports=reports)
    return replace(of_values, gradients=gradients, averages=averages)


def report_early(error: BaseException) -> bool:
    """Report to the others that this process failed by `error` before it could join them: they do not wait for it then.

    Returns:
        Whether they can know it, and the main process prints the message.
    """
    environment = Environment.read()
    if _joined:
        return True  # reported by `joined`
    if not environment.shares_store:
        return False
    try:
        post(_store(environment, _EARLY_SECONDS), failure_of(error, environment.rank))
    except (RuntimeError, ConfigError):  # the store is gone, or cannot be reached
        return False
    return True


def _store(environment: Environment, timeout_seconds: float) -> Store:
    """Return the store that the processes of this attempt share.

    torchrun keeps its store for a restart: without a prefix, processes would read the addresses of the dead.
    """
    global _joined
    seconds = min(timeout_seconds, _TORCHRUN_SECONDS) if environment.shares_store else timeout_seconds
    if dist.is_initialized():
        store = _get_default_store()
    else:
        try:
            store, _, _ = next(
                rendezvous("env://", environment.rank, environment.size, timeout=timedelta(seconds=seconds))
            )
        except dist.DistError as error:
            limit = " (distributed.timeout_seconds)" if seconds == timeout_seconds else ""
            raise ConfigError(
                f"MASTER_ADDR: no other process is reached within {seconds:g} seconds{limit}: {error}"
            ) from error
    attempt = environment.attempt if environment.shares_store else 0  # each host counts its own
    prefix = f"attempt/{attempt}/{_joined}"
    _joined += 1
    return PrefixStore(prefix, store)


def _connected(world: World, store: Store, timeout_seconds: float) -> World:
    """Return `world` with its groups."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if not dist.is_initialized():
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    return with_groups(world, timeout_seconds, backend)


@contextmanager
def _naming_failures(failures: Failures) -> Iterator[None]:
    """Run the body. If it fails, the other processes know why; if it fails as another has, PeerError names that one."""
    try:
        yield
    except StoppedBySignal:
        with _ignoring_sigterm():
            failures.wait_for_main()
        raise
    except PeerError:
        raise
    except BaseException as error:
        failure = None if isinstance(error, KeyboardInterrupt) else failures.behind(error)
        if failure is not None:
            raise failures.error(failure) from error
        failures.report(error)
        raise


@contextmanager
def _ignoring_sigterm() -> Iterator[None]:
    """Run the body without SIGTERM, which torchrun sends as soon as another process has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
