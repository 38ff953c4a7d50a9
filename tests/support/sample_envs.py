"""Environments of gymnasium, and a policy for them, as in a user's module."""

import os
import signal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Outcome, TensorSplit
from trainer.interfaces.evaluation import ENVIRONMENT_REGISTRY, Environment, Episode
from trainer.interfaces.features import Feature, FeatureType
from trainer.interfaces.policy import Policy

STATE, GOAL, IMAGE = "observation.state", "observation.environment_state", "observation.image"


class Reach(gymnasium.Env):
    """A point that is to come near to a goal. Both places are drawn at each reset."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 gymnasium's form

    def __init__(self, render_mode=None, pixels=False, says_success=True, ends=True):
        self.render_mode, self._pixels, self._says_success, self._ends = render_mode, pixels, says_success, ends
        box = spaces.Box(-10, 10, (2,), np.float64)
        places = {"agent_pos": box, "environment_state": box, "noise": spaces.Box(0, 1, (1,))}
        frames = {"top": spaces.Box(0, 255, (8, 12, 3), np.uint8)}
        self.observation_space = spaces.Dict({**places, **({"pixels": spaces.Dict(frames)} if pixels else {})})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at, self._goal = self.np_random.uniform(-2, 2, (2, 2))
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._at = self._at + action + self.np_random.normal(0, 0.05, 2)
        distance = float(np.linalg.norm(self._at - self._goal))
        info = {"distance": np.float64(distance), "step": 3, "place": self._at, "nested": {"x": 1.0}, "note": "text"}
        solved = distance < 0.5
        success = {"is_success": bool(solved)} if self._says_success else {}
        return self._observation(), -distance, solved and self._ends, False, {**info, **success}

    def render(self):
        return np.full((9, 12, 3), 100 + 10 * int(self._at[0]), np.uint8)

    def _observation(self):
        seen = {"agent_pos": self._at.copy(), "environment_state": self._goal.copy(), "noise": np.zeros(1, np.float32)}
        frame = np.zeros((8, 12, 3), np.uint8)
        frame[0, 1] = 7
        return {**seen, **({"pixels": {"top": frame}} if self._pixels else {})}


class SeededAtMake(Reach):
    """As Meta-World's: its `reset` ignores the seed."""

    def __init__(self, seed, render_mode=None):
        super().__init__(render_mode)
        self._generator = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=int(self._generator.integers(2**31)))


class Faulty(Reach):
    """Fails in one of several ways after some steps; Ctrl-C comes once, as long as `once` is not there."""

    def __init__(self, way="raises", after=2, pidfile=None, once=None, run=None, render_mode=None):
        super().__init__(render_mode)
        self._way, self._after, self._once, self._run, self._steps = way, after, once, run, 0
        if pidfile is not None:
            with open(pidfile, "a") as file:
                file.write(f"{os.getpid()}\n")

    def step(self, action):
        self._steps += 1
        if self._steps > self._after:
            if self._way == "raises":
                raise ZeroDivisionError("the simulator exploded")
            if self._way == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._way == "ctrl_c" and not os.path.exists(self._once):
                open(self._once, "x").close()
                for process in {self._run, os.getpid()}:
                    os.kill(process, signal.SIGINT)
        return super().step(action)


class Blind(Reach):
    """Cannot render."""

    metadata = {"render_modes": []}  # noqa: RUF012 gymnasium's form


class NoScreen(Reach):
    """Cannot render on this machine, or not for long."""

    def __init__(self, after=0, render_mode=None):
        super().__init__(render_mode)
        self._after = after

    def render(self):
        if self._after == 0:
            raise OSError("no screen")
        self._after -= 1
        return super().render()


class Late(Reach):
    """Gives a number at the end of an episode alone."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        self._steps = getattr(self, "_steps", 0) + 1
        return (
            observation,
            reward,
            self._steps % 5 == 0,
            False,
            {**info, **({"late": 5} if self._steps % 5 == 0 else {})},
        )


ENVIRONMENTS = {"Blind": Blind, "NoScreen": NoScreen, "Late": Late}
for _name, _class in {**ENVIRONMENTS, "Reach": Reach, "SeededAtMake": SeededAtMake, "Faulty": Faulty}.items():
    gymnasium.register(f"sample/{_name}-v0", _class, max_episode_steps=15)
gymnasium.register("sample/Endless-v0", Reach)


@DATASET_REGISTRY.register("reach")
class ReachData(DataSet):
    """Demonstrations of Reach."""

    def __init__(self, samples: int = 64, held_out: int = 16, wide: bool = False):
        generator = torch.Generator().manual_seed(0)
        state, goal = torch.rand(2, samples + held_out, 2, generator=generator) * 4 - 2
        action = (goal - state).clamp(-1, 1)
        all_of = {STATE: state, GOAL: goal, "action": action}
        self.train = TensorSplit({name: value[:samples] for name, value in all_of.items()})
        self.held_out = TensorSplit({name: value[samples:] for name, value in all_of.items()}) if held_out else None
        self.features = {
            STATE: Feature(FeatureType.STATE, (3 if wide else 2,)),
            GOAL: Feature(FeatureType.ENV, (2,)),
            "action": Feature(FeatureType.ACTION, (2,)),
        }


@MODEL_REGISTRY.register("steering")
class Steering(nn.Module):
    """A linear map, which starts at zero, with BatchNorm before it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 2)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x):
        return self.linear(self.norm(x))


class _Now:
    """Acts by the present alone."""

    def __init__(self, policy, components):
        self._policy, self._components = policy, components

    def reset(self):
        pass

    def act(self, observation):
        now = {name: value[:, None] for name, value in observation.items()}
        return self._policy.actions(self._components, now)[:, 0]


@OBJECTIVE_REGISTRY.register("reach_policy")
class ReachPolicy(Policy):
    """Regression of the action, and its execution with noise, from torch and from a generator of its own.

    Args:
        noise: Standard deviation.
        reads: Features beside the two.
        way: What `actions` does wrong.
    """

    def __init__(self, noise: float = 0.0, reads: list[str] | None = None, way: str = "none") -> None:
        self._noise, self._reads, self._way = noise, reads or [], way
        self._generator = torch.Generator().manual_seed(0)
        self.acted = 0

    def prepare(self, components, data):
        extra = {name: Feature(FeatureType.STATE, (1,)) for name in self._reads}
        self.features = {**data.features, **extra}

    def state_dict(self):
        return {"generator": self._generator.get_state(), "acted": self.acted}

    def load_state_dict(self, state):
        self._generator.set_state(state["generator"])
        self.acted = state["acted"]

    def losses(self, components, batch):
        predicted = components["head"](torch.cat([batch[STATE], batch[GOAL]], -1))
        return Outcome({"squared": (predicted - batch["action"]).square().mean()})

    def update(self, components, batch, learner):
        noise = 0.01 * torch.randn(batch[STATE].shape, generator=self._generator)
        return super().update(components, {**batch, STATE: batch[STATE] + noise}, learner)

    def actions(self, components, observation):
        self.acted += 1
        if self._way == "raises":
            raise ZeroDivisionError("no idea")
        state, goal = observation[STATE][:, -1], observation[GOAL][:, -1]
        action = components["head"](torch.cat([state, goal], -1))
        noise = torch.randn(action.shape) + torch.randn(action.shape, generator=self._generator)
        action = (action + self._noise * noise)[:, None]
        if self._way == "shape":
            return action[..., :1]
        return action * torch.nan if self._way == "nan" else action

    def actor(self, components):
        return _Now(self, components)


def config(run_dir, evaluation=None, *, policy=None, env=None, data=None, **changed):
    """Return the config of a run of twelve updates of the policy. evaluation: fields of `train.evaluation`."""
    made = {
        "plugins": ["sample_envs"],
        "data": {"type": "reach", "batch_size": 16, "params": data or {}},
        "model": {
            "components": {"head": {"type": "steering"}},
            "component_optims": {"head": {"type": "adamw", "params": {"lr": 0.1, "weight_decay": 0.0}}},
        },
        "train": {
            "objective": {"type": "reach_policy", "params": policy or {}},
            "total_steps": 12,
            "log_every": 1,
            "run_dir": str(run_dir),
            "device": "cpu",
            **changed,
        },
    }
    if evaluation is not None:
        params = {"id": "sample/Reach-v0", **(env or {})}
        made["train"]["evaluation"] = {"type": "gym", "params": params, "n_episodes": 6, **evaluation}
    return made


@ENVIRONMENT_REGISTRY.register("countdown")
class Countdown(Environment):
    """An environment without gymnasium: the reward of an episode is its seed, and `acts` actions are asked for."""

    name = "Countdown"

    def __init__(self, acts: int = 2, fails_after: int = 100) -> None:
        self._acts, self._left = acts, fails_after

    def episodes(self, actor, seeds, batch_size, use_async_envs, record=0, max_steps=None):
        actor.reset()
        for _ in range(min(self._acts, max_steps or self._acts)):
            self._left -= 1
            if self._left < 0:
                raise LookupError("out of numbers")
            actor.act({STATE: torch.zeros(1, 2), GOAL: torch.ones(1, 2)})
        return [Episode(seed, self._acts, float(seed), None) for seed in seeds]
