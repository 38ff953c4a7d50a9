"""Episodes of a policy in several environments at once, in rounds."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserCodeError, raised
from ..interfaces.policy import Actor
from .episode_env import END, FAILURE, End, EnvSource, EpisodeEnv, Failure
from .observations import ObservationMap

if TYPE_CHECKING:
    from gymnasium import Space
    from gymnasium.vector import VectorEnv

_CLOSING_SECONDS = 5.0
"""Time that the processes of environments have to close them, all together."""


def vector_env(
    source: EnvSource, observation_space: "Space[Any]", action_space: "Space[Any]", count: int, use_async_envs: bool
) -> "VectorEnv[Any, Any, Any]":
    """Return `count` environments that are stepped together, each in a separate process or all in this one."""
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

    make: Any = partial(EpisodeEnv, source, observation_space, action_space)
    return AsyncVectorEnv([make] * count) if use_async_envs else SyncVectorEnv([make] * count)


def close_vector_env(envs: "VectorEnv[Any, Any, Any]") -> None:
    """Close environments, whatever state an error has left them in, and end their processes."""
    from gymnasium.vector import AsyncVectorEnv

    if not isinstance(envs, AsyncVectorEnv):
        envs.close()
        return
    # Its own close would wait for a reply to a step that an error has interrupted. It leaves None for a closed pipe.
    pipes = [pipe for pipe in envs.parent_pipes if pipe is not None]
    for pipe in pipes:
        with suppress(OSError):
            pipe.send(("close", None))
    end = monotonic() + _CLOSING_SECONDS
    for process in envs.processes:
        process.join(max(0.0, end - monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in pipes:
        pipe.close()
    envs.closed = True


def run_rounds(
    envs: "VectorEnv[Any, Any, Any]",
    actor: Actor,
    seeds: Sequence[int],
    observations: ObservationMap,
    clip_actions: bool,
) -> list[End]:
    """Run one episode for each seed, as many at a time as there are environments.

    An environment whose episode has ended is idle until the round ends.

    Raises:
        UserCodeError: The environment fails, its process has died, or an action is not one for it.
    """
    ends: list[End] = []
    for start in range(0, len(seeds), envs.num_envs):
        ends += _round(envs, actor, seeds[start : start + envs.num_envs], observations, clip_actions)
    return ends


def _round(
    envs: "VectorEnv[Any, Any, Any]",
    actor: Actor,
    seeds: Sequence[int],
    observations: ObservationMap,
    clip_actions: bool,
) -> list[End]:
    """Run one episode for each seed, which are at most as many as the environments."""
    ends: dict[int, End] = {}
    count = len(seeds)
    try:
        all_seeds: Any = [*seeds, *[None] * (envs.num_envs - count)]
        observed, info = envs.reset(seed=all_seeds)
        _raise_failure(info)
        actor.reset()
        steps = 0
        while len(ends) < count:
            actions = actor.act(observations.batch(observed, count))
            given = _checked(actions, envs.single_action_space, count, clip_actions, steps)
            padded = np.zeros((envs.num_envs, *given.shape[1:]), given.dtype)
            padded[:count] = given
            observed, _, _, _, info = envs.step(padded)
            _raise_failure(info)
            ends |= {index: end for index, end in enumerate(info.get(END, ())) if end is not None}
            steps += 1
    except (EOFError, OSError) as error:  # of the pipe to a process
        raise UserCodeError(f"the process of an environment has died: {raised(error)}") from error
    return [ends[index] for index in range(count)]


def _raise_failure(info: dict[str, Any]) -> None:
    failure = next((failure for failure in info.get(FAILURE, ()) if failure is not None), None)
    if isinstance(failure, Failure):
        raise UserCodeError(failure.message) from RuntimeError(failure.calls)


def _checked(actions: torch.Tensor, space: Any, count: int, clip_actions: bool, step: int) -> NDArray[Any]:
    """Return the actions as the environment takes them. Raises UserCodeError if they are not actions for it."""
    expected = [count, *space.shape]
    if not isinstance(actions, torch.Tensor) or list(actions.shape) != expected:
        kind = list(actions.shape) if isinstance(actions, torch.Tensor) else type(actions).__name__
        raise UserCodeError(f"train.objective: its actor must return actions of shape {expected}; got {kind}")
    if not bool(torch.isfinite(actions).all()):
        raise UserCodeError(f"train.objective: its actor returns an action that is not finite at step {step} (from 0)")
    values = actions.detach().cpu().to(torch.float64).numpy()
    if np.issubdtype(space.dtype, np.integer):
        values = np.rint(values)  # astype would cut 0.9 to 0
    return (np.clip(values, space.low, space.high) if clip_actions else values).astype(space.dtype)
