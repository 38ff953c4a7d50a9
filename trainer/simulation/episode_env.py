"""One environment as a vector environment sees it: it runs an episode, and is idle until the next one."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import raised, user_calls
from ..interfaces.evaluation import TAKEN_NAMES
from ..runtime.parents import end_with_parent
from ..runtime.rng import seed_all, separate_rng
from ..runtime.signals import SIGNALS
from ..runtime.streams import unfailing_stream
from .recorder import Recorder

if TYPE_CHECKING:
    from gymnasium import Env, Space
    from gymnasium.envs.registration import EnvSpec

END, FAILURE = "innerstep_end", "innerstep_failure"
"""The entries in `info` that hold the End of an episode, and a Failure."""
SUCCESS_KEYS = ("is_success", "success")

_Reset = tuple[Any, dict[str, object]]
_Step = tuple[Any, float, bool, bool, dict[str, object]]


@dataclass(frozen=True)
class EnvSource:
    """How an environment is made.

    Attributes:
        spec: Its entry in gymnasium's registry.
        options: Arguments of `gymnasium.make`.
        seed_at_make: The name of the argument that takes the seed of an episode; None: `reset` takes it.
        success_key: The entry in `info` for whether the task is solved; None: the first of SUCCESS_KEYS.
        owner: The process of the run.
    """

    spec: "EnvSpec"
    options: Mapping[str, Any]
    seed_at_make: str | None
    success_key: str | None
    owner: int = field(default_factory=os.getpid)

    @property
    def is_in_run(self) -> bool:
        """Whether this is the process of the run."""
        return os.getpid() == self.owner

    def make(self, seed: int, **changed: object) -> "Env[Any, Any]":
        """Return a new environment, for the episode of `seed` if `seed_at_make` is given.

        What it draws from global generators depends on `seed` alone; those of the run do not move.
        """
        import gymnasium

        seeded = {} if self.seed_at_make is None else {self.seed_at_make: seed}
        options = {**self.options, **changed, **seeded}
        # Its checker prints warnings for the author of the environment.
        make = partial(gymnasium.make, self.spec, disable_env_checker=True, **options)
        if self.is_in_run:
            with separate_rng(seed):
                return make()
        seed_all(seed)  # to read the generators' states would start CUDA in this process too
        return make()


@dataclass(frozen=True)
class End:
    """The result of an episode."""

    length: int
    total_reward: float
    success: bool | None
    info: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """Code of the environment raised an error. As text: the error might not survive the way between processes."""

    message: str
    calls: str


class EpisodeEnv:
    """Runs one episode after a reset with a seed, then is idle: it returns its last observation.

    A vector environment steps all its environments together, and resets those that are done without a seed. Here both
    cost nothing.

    Args:
        source: How the environment is made, at the first reset.
        observation_space: The environment's.
        action_space: The environment's.
        max_steps: Steps after which an episode is cut; None: where the environment ends it.
        recorder: Records each episode; None: nothing is recorded.
    """

    render_mode = None
    spec = None

    def __init__(
        self,
        source: EnvSource,
        observation_space: "Space[Any]",
        action_space: "Space[Any]",
        max_steps: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        if not source.is_in_run:
            _prepare_process()
        self.observation_space, self.action_space = observation_space, action_space
        self.metadata: dict[str, Any] = {}
        self._source, self._max_steps, self._recorder = source, max_steps, recorder
        self._env: Env[Any, Any] | None = None
        self._observation: Any = None
        self._is_idle = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _Reset:
        """Begin the episode of `seed`; without one, stay idle."""
        if seed is None:
            return self._observation, {}
        self._is_idle = False
        self._length, self._total_reward = 0, 0.0
        self._success: bool | None = None
        self._info: dict[str, float] = {}
        try:
            if self._env is None or self._source.seed_at_make is not None:
                self.close()
                changed = {} if self._recorder is None else self._recorder.options
                self._env = self._source.make(seed, **changed)
            if not self._source.is_in_run:  # whose generators are seeded once for all episodes
                seed_all(seed)
            self._observation, _ = self._env.reset(seed=seed)
            if self._recorder is not None:
                self._recorder.begin(self._env, self._observation)
        except (Exception, SystemExit) as error:  # the environment is anyone's code
            return self._fallback(), {FAILURE: self._failure(f"its reset with seed {seed}", error)}
        return self._observation, {}

    def step(self, action: Any) -> _Step:
        """Step the episode; `info` has its End once it has ended, or a Failure, and nothing else."""
        if self._is_idle or self._env is None:
            return self._observation, 0.0, False, False, {}
        try:
            self._observation, reward, terminated, truncated, info = self._env.step(action)
            self._count(float(reward), info)
            is_cut = self._length == self._max_steps
            is_over = terminated or truncated or is_cut
            if self._recorder is not None:
                self._recorder.add(self._env, self._observation, is_over)
            if not is_over:
                return self._observation, float(reward), False, False, {}
            self._is_idle = True
            if not is_cut:
                self._require_success(info)
        except (Exception, SystemExit) as error:  # the environment is anyone's code
            failure = self._failure(f"its step {self._length} (from 0)", error)
            return self._observation, 0.0, True, False, {FAILURE: failure}
        end = End(self._length, self._total_reward, self._success, self._info)
        return self._observation, float(reward), bool(terminated), not terminated, {END: end}

    def close(self) -> None:
        """Close the environment."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _count(self, reward: float, info: Mapping[str, Any]) -> None:
        """Add a step to the result of the episode."""
        self._length += 1
        self._total_reward += reward
        keys = SUCCESS_KEYS if self._source.success_key is None else (self._source.success_key,)
        if (key := next((key for key in keys if key in info), None)) is not None:
            self._success = bool(self._success) or bool(info[key])
        for name, value in info.items():
            if name not in TAKEN_NAMES and name not in SUCCESS_KEYS and name not in keys and _is_number(value):
                self._info[name] = last = float(value)
                highest = f"max_{name}"
                self._info[highest] = float(np.fmax(self._info.get(highest, last), last))

    def _require_success(self, info: Mapping[str, Any]) -> None:
        if self._source.success_key is not None and self._success is None:
            names = ", ".join(map(str, info)) or "nothing"
            raise KeyError(f"success_key {self._source.success_key!r} was never in info, which has {names}")

    def _fallback(self) -> Any:
        """Return an observation to send beside a failure."""
        return self.observation_space.sample() if self._observation is None else self._observation

    def _failure(self, where: str, error: BaseException) -> Failure:
        self._is_idle = True
        return Failure(f"{self._source.spec.id}: {where} fails: {raised(error)}", user_calls(error))


def _is_number(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "biuf"
    return isinstance(value, bool | int | float | np.integer | np.floating | np.bool_)


def _prepare_process() -> None:
    """Ignore the signals that stop a run, as Ctrl-C goes to all its processes; but SIGTERM ends this one.

    multiprocessing sends it to the processes that are left when the run ends. Prints cannot fail.
    """
    sys.stdout, sys.stderr = map(unfailing_stream, (sys.stdout, sys.stderr))
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number is signal.SIGTERM else signal.SIG_IGN)
    end_with_parent(signal.SIGTERM)
