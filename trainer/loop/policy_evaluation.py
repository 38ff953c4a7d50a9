"""A policy's episodes in an environment, by `train.evaluation`. Training is not affected."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from optimizer.config import listed

from ..config.evaluation import EvaluationConfig
from ..distributed.outcomes import failing_together
from ..distributed.world import World
from ..errors import ConfigError, UserCodeError, missing_extra, raised, user_code
from ..interfaces.dataset import Batch
from ..interfaces.evaluation import TAKEN_NAMES, Environment, Episode
from ..interfaces.features import FeatureType
from ..interfaces.objective import Objective
from ..interfaces.policy import Actor, Policy
from ..runtime.devices import on_device
from ..runtime.rng import separate_rng

PATH = "train.evaluation"


class EvaluationStoppedError(Exception):
    """The run was asked to stop in the middle of an evaluation."""


def mean_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the means over the episodes, each over those that have the value.

    An episode whose success is unknown counts as not solved if that of another one is known: `info` may have the entry
    at a success alone.
    """
    if any(episode.success is not None for episode in episodes):
        episodes = [replace(episode, success=bool(episode.success)) for episode in episodes]
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in _values(episode).items():
            values.setdefault(name, []).append(value)
    return {name: sum(of) / len(of) for name, of in values.items()}


class PolicyEvaluation:
    """Evaluates a policy in an environment. Used as a context, it closes the environment at the end.

    Args:
        config: The environment and the episodes.
        objective: The run's objective.
        world: The processes of the run, among which the episodes are divided; left out, this one runs all.

    Raises:
        ConfigError: The objective is not a policy, or the environment cannot be built.
    """

    def __init__(self, config: EvaluationConfig, objective: Objective, world: World | None = None) -> None:
        if not isinstance(objective, Policy):
            raise ConfigError(
                f"{PATH}: needs a policy, an objective that also acts; train.objective is {type(objective).__name__}."
                " Remove train.evaluation, or choose a policy."
            )
        if config.video:
            _require_video()
        self.config, self._policy, self._world = config, objective, world or World()
        # An optimizer's first step imports it with triton's LLVM, and crashes if a renderer has loaded another one.
        from torch import _dynamo  # noqa: F401

        self.environment: Environment = config.make(PATH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.environment.close()

    def check(self, components: nn.ModuleDict, seed: int, wanted: Collection[str] = ()) -> list[str]:
        """Take one step in the environment before there is anything to lose, and return the names of its metrics.

        Args:
            components: The policy's, which are in eval mode afterwards.
            seed: Of the policy's random numbers.
            wanted: Names of metrics that something waits for. If a step does not bring one of them, a whole episode is
                run to see whether its end does.

        Raises:
            ConfigError: The policy and the environment do not fit together, or fail.
        """
        components.eval()
        first = list(self.config.seeds[:1])
        try:
            self._check_features()
            (episode,) = self._run(components, seed, first, record=min(1, self.config.video), max_steps=1)
            if self.config.video and episode.recording is not None and episode.recording.no_frames:
                raise ConfigError(f"{PATH}.video: there is nothing to record: {episode.recording.no_frames}")
            if not set(wanted) <= _values(episode).keys():
                (episode,) = self._run(components, seed, first)
        except UserCodeError as error:
            raise ConfigError(f"{PATH}: {error}") from error.__cause__
        finally:
            self.environment.close()
        return list(_values(episode))

    def episodes(
        self, components: nn.ModuleDict, seed: int, stops: Callable[[], bool] = lambda: False
    ) -> list[Episode]:
        """Return the episodes of an evaluation, in the order of their seeds.

        If there are several processes, all call, and each runs a share of them and gets all. The random numbers of the
        policy then depend on `seed` and the first episode of the share.

        Args:
            components: The policy's, in eval mode. Each process must have their whole weights.
            seed: Of the policy's random numbers.
            stops: Whether the run was asked to stop; it is asked before each step.

        Raises:
            EvaluationStoppedError: It was, in one of the processes.
            UserCodeError: The environment or the policy fails, in one of the processes.
        """
        seeds, world = self.config.seeds, self._world
        if world.is_alone:
            return self._run(components, seed, seeds, stops)
        share, own, stopped = world.share(len(seeds)), list[Episode](), False
        with failing_together(world):
            try:
                if share:
                    words = np.random.SeedSequence((seed, share.start)).generate_state(1, np.uint64)
                    own = self._run(components, int(words[0]), seeds[share.start : share.stop], stops)
            except EvaluationStoppedError:
                stopped = True
        if world.any(stopped):
            raise EvaluationStoppedError
        return [Episode(**values) for each in world.gather(list(map(_plain_values, own))) for values in each]

    def recorded(self, components: nn.ModuleDict, seed: int, count: int, frames: int) -> Iterator[Episode]:
        """Yield the first episodes, run again one by one and recorded.

        Args:
            components: The policy's, in eval mode.
            seed: Of the policy's random numbers.
            count: How many episodes.
            frames: How many frames each should have about, as rendering may be slow; those for a video have all.
        """
        try:
            for number, episode_seed in enumerate(self.config.seeds[:count]):
                every = 1
                if number >= self.config.video:  # it is run for its length first
                    (episode,) = self._run(components, seed, [episode_seed])
                    every = max(1, -(-episode.length // (frames - 1)))
                yield from self._run(components, seed, [episode_seed], record=every)
        finally:
            self.environment.close()

    @torch.no_grad()
    def _run(
        self,
        components: nn.ModuleDict,
        seed: int,
        seeds: Sequence[int],
        stops: Callable[[], bool] = lambda: False,
        record: int = 0,
        max_steps: int | None = None,
    ) -> list[Episode]:
        config = self.config
        with separate_rng(seed):
            actor = _AskingActor(self._policy, components, stops)
            count = min(config.environments, len(seeds))
            try:
                with user_code(f"{self.environment.name}: an episode"):
                    return self.environment.episodes(actor, seeds, count, config.use_async_envs, record, max_steps)
            except UserCodeError as error:
                if stops():  # the signal may have ended the processes of the environments too
                    raise EvaluationStoppedError from error
                raise

    def _check_features(self) -> None:
        """Raise ConfigError if the environment lacks a feature that the policy reads, or has it in another shape."""
        with user_code(f"{self.environment.name}: its features"):
            given = self.environment.features()
        for name, feature in self._policy.features.items() if given else ():
            if feature.type is FeatureType.ACTION:
                continue
            if name not in given:
                raise ConfigError(
                    f"{PATH}.params: the policy reads {name!r}, which the observations of {self.environment.name} do"
                    f" not have; they have {listed(list(given))}"
                )
            if feature.shape != given[name].shape:
                raise ConfigError(
                    f"{PATH}.params: the policy reads {name!r} of shape {list(feature.shape)}; got"
                    f" {list(given[name].shape)} from {self.environment.name}"
                )


class _AskingActor:
    """The policy's actor on the device of its components, which first asks whether the run stops."""

    def __init__(self, policy: Policy, components: nn.ModuleDict, stops: Callable[[], bool]) -> None:
        self._stops = stops
        self._device = next((parameter.device for parameter in components.parameters()), torch.device("cpu"))
        with user_code("train.objective: making its actor"):
            self._actor: Actor = policy.actor(components)

    def reset(self) -> None:
        self._actor.reset()

    def act(self, observation: Batch) -> Tensor:
        if self._stops():
            raise EvaluationStoppedError
        try:
            return self._actor.act(on_device(observation, self._device))
        except (ConfigError, UserCodeError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the policy may be the user's
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in observation.items())
            raise UserCodeError(f"train.objective: its actor fails on {shapes}: {raised(error)}") from error


def _values(episode: Episode) -> dict[str, float]:
    """Return the metrics of one episode."""
    success = {} if episode.success is None else {"success": float(episode.success)}
    own = {**success, "return": episode.total_reward, "episode_length": float(episode.length)}
    return {**own, **{name: value for name, value in episode.info.items() if name not in TAKEN_NAMES}}


def _plain_values(episode: Episode) -> Mapping[str, Any]:
    """Return an episode without its recording, as JSON can hold it."""
    return {
        "seed": int(episode.seed),
        "length": int(episode.length),
        "total_reward": float(episode.total_reward),
        "success": None if episode.success is None else bool(episode.success),
        "info": {name: float(value) for name, value in episode.info.items()},
    }


def _require_video() -> None:
    try:
        import av  # noqa: F401 is it there?
    except ImportError as error:
        raise missing_extra(f"{PATH}.video", "av", "robot") from error
