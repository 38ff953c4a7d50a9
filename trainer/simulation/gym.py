"""Environments of gymnasium."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from optimizer.config import NotImportedError, PositiveCount, load_module, nearest

from ..errors import ConfigError, missing_extra, raised
from ..interfaces.evaluation import ENVIRONMENT_REGISTRY, Environment, Episode
from ..interfaces.features import Feature, FeatureType
from ..interfaces.policy import Actor
from .episode_env import End, EnvSource, EpisodeEnv
from .observations import STATE, ObservationMap
from .recorder import Recorder, reason_not_to_render
from .rollouts import close_vector_env, run_rounds, vector_env

if TYPE_CHECKING:
    from gymnasium import Space
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.vector import VectorEnv


def _import_module(name: str) -> str:
    """Import the module in `module:ID`, also while the folder of the config is searched. Raises NotImportedError."""
    module, colon, _ = name.rpartition(":")
    if colon:
        load_module(module)
    return name


_Id = Annotated[str, AfterValidator(_import_module)]
_PATH = "train.evaluation.params"
_RENDER_MODE = "rgb_array"


@ENVIRONMENT_REGISTRY.register("gym")
class GymEnvironment(Environment):
    """An environment of gymnasium, several of which run at a time.

    An observation space that is one array is `observation.state`, or `observation.image` if it is a picture (uint8).
    In one that is a Dict, `pixels` is `observation.image`, or `observation.images.CAMERA` if it has several;
    `agent_pos` is `observation.state`, and `environment_state` is `observation.environment_state`, as in LeRobot. Other
    arrays need a name in `observation`. Pictures become uint8 with channels first, all other arrays float32. Actions
    must be arrays (a Box), which Discrete ones are not; those of whole numbers are rounded.

    Metrics: `success` (the share of episodes with success in `info` at any step), `return` (the sum of rewards),
    `episode_length`, and for each other number NAME in `info` its last value, and its highest as `max_NAME`; all of
    them means over the episodes. A number that is called as an entry in a line of metrics (`step`, `loss`) is left out.

    Args:
        id: The environment's in gymnasium's registry; `module:ID` imports a module first, which registers it.
        env: Arguments of `gymnasium.make`.
        max_episode_steps: Steps after which an episode ends; left out, as registered. Required if nothing is.
        observation: Features by the path of their array in an observation, keys joined by `.`.
        success_key: The entry in `info` for whether the task is solved; left out, `is_success` or `success`.
        clip_actions: Whether actions beyond the bounds of the action space are set to the bound; false: passed on.
        seed_at_make: The argument of `gymnasium.make` that takes the seed of an episode, for environments whose `reset`
            ignores it (Meta-World's: `seed`). The environment is then made again for each episode.

    Raises:
        ConfigError: There is no such environment, or gymnasium is not installed.
    """

    def __init__(
        self,
        id: _Id,  # noqa: A002 gymnasium's name for it
        env: dict[str, Any] | None = None,
        max_episode_steps: PositiveCount | None = None,
        observation: dict[str, str] | None = None,
        success_key: str | None = None,
        clip_actions: bool = True,
        seed_at_make: str | None = None,
    ) -> None:
        spec = _spec(id)
        options = dict(env or {})
        if max_episode_steps is not None:
            options["max_episode_steps"] = max_episode_steps
        self.name = spec.id
        self._names, self._clip_actions = observation or {}, clip_actions
        self._source = EnvSource(spec, options, seed_at_make, success_key)
        self._probed: tuple[ObservationMap, Space[Any], Space[Any]] | None = None
        self._render_modes: Sequence[str] = ()
        self._no_frames: str | None = None
        self._envs: VectorEnv[Any, Any, Any] | None = None
        self._form: tuple[int, bool] = 0, False

    def features(self) -> Mapping[str, Feature]:
        """Return the features of its observations, by name.

        Raises:
            ConfigError: The environment cannot be made, or its actions are not arrays of numbers.
        """
        return self._probe()[0].features

    def episodes(
        self,
        actor: Actor,
        seeds: Sequence[int],
        batch_size: int,
        use_async_envs: bool,
        record: int = 0,
        max_steps: int | None = None,
    ) -> list[Episode]:
        """Run one episode for each seed. Episodes that are recorded or cut run one at a time."""
        observations, *_ = self._probe()
        if record or max_steps is not None:
            return [self._single_episode(actor, seed, record, max_steps) for seed in seeds]
        envs = self._vector_env(min(batch_size, len(seeds)), use_async_envs)
        try:
            ends = run_rounds(envs, actor, seeds, observations, self._clip_actions)
        except BaseException:
            self.close()  # an error may leave the processes in the middle of a step
            raise
        return [_episode(seed, end) for seed, end in zip(seeds, ends, strict=True)]

    def close(self) -> None:
        """Close the environments and end their processes."""
        envs, self._envs = self._envs, None
        if envs is not None:
            close_vector_env(envs)

    def _vector_env(self, count: int, use_async_envs: bool) -> "VectorEnv[Any, Any, Any]":
        """Return the environments, which are made once and kept."""
        if self._envs is None or self._form != (count, use_async_envs):
            self.close()
            _, observation_space, action_space = self._probe()
            self._envs = vector_env(self._source, observation_space, action_space, count, use_async_envs)
            self._form = count, use_async_envs
        return self._envs

    def _single_episode(self, actor: Actor, seed: int, record: int, max_steps: int | None) -> Episode:
        from gymnasium.vector import SyncVectorEnv

        observations, observation_space, action_space = self._probe()
        recorder = self._recorder(observations, record) if record else None
        one: Any = partial(EpisodeEnv, self._source, observation_space, action_space, max_steps, recorder)
        envs = SyncVectorEnv([one])
        try:
            (end,) = run_rounds(envs, actor, [seed], observations, self._clip_actions)
        finally:
            envs.close()
        return _episode(seed, end, recorder)

    def _recorder(self, observations: ObservationMap, every: int) -> Recorder:
        if self._no_frames is None:
            if _RENDER_MODE not in self._render_modes:
                modes = ", ".join(map(str, self._render_modes)) or "none"
                self._no_frames = f"{self.name} has no render mode {_RENDER_MODE}; it has {modes}"
            else:
                self._no_frames = reason_not_to_render(partial(self._source.make, 0, render_mode=_RENDER_MODE))
        options = {} if self._no_frames else {"render_mode": _RENDER_MODE}
        vectors = [name for name, feature in observations.features.items() if feature.type is not FeatureType.VISUAL]
        path_of = STATE if STATE in vectors else next(iter(vectors), "")
        return Recorder(options, self._no_frames, every, path_of, partial(observations.vector, path_of))

    def _probe(self) -> tuple[ObservationMap, "Space[Any]", "Space[Any]"]:
        """Return the names of the observations, and both spaces, of an environment that is made for this once."""
        if self._probed is None:
            from gymnasium import spaces

            try:
                env = self._source.make(0)
                self._render_modes = env.metadata.get("render_modes") or ()
                observation_space, action_space, spec = env.observation_space, env.action_space, env.spec
                env.close()
            except Exception as error:  # the environment is anyone's code
                raise ConfigError(f"{_PATH}: {self.name} cannot be made: {raised(error)}") from error
            if not isinstance(action_space, spaces.Box):
                raise ConfigError(f"{_PATH}.id: the actions of {self.name} must be arrays (a Box); got {action_space}")
            if spec is None or spec.max_episode_steps is None:
                raise ConfigError(
                    f"{_PATH}.max_episode_steps: required, as {self.name} has no limit, and an episode might never end"
                )
            names = ObservationMap(observation_space, self._names, self.name)
            self._probed = names, observation_space, action_space
        return self._probed


def _spec(name: str) -> "EnvSpec":
    """Return the entry of an environment in the registry. Raises ConfigError."""
    try:
        import gymnasium
    except ImportError as error:
        raise missing_extra("train.evaluation", "gymnasium", "sim") from error
    try:
        return gymnasium.spec(_import_module(name).rpartition(":")[2])
    except NotImportedError as error:
        raise ConfigError(f"{_PATH}.id: {error}") from error
    except gymnasium.error.Error as error:
        known = nearest(name.rpartition(":")[2], list(gymnasium.registry))
        hint = "" if ":" in name else " Write module:ID if a module registers it."
        raise ConfigError(f"{_PATH}.id: gymnasium has no environment {name!r}{known}{hint}") from error


def _episode(seed: int, end: End, recorder: Recorder | None = None) -> Episode:
    recording = None if recorder is None else recorder.recording()
    return Episode(seed, end.length, end.total_reward, end.success, end.info, recording)
