"""Actions of LeRobot's policies beside those of LeRobot's own rollout, in several environments at once."""

import functools

import numpy as np
import pytest
import torch
from conftest import needs
from sample_lerobot_policies import EPISODES, PARAMS, PARTS, PUSHT, TIMES
from torch import nn

from optimizer.config import construct
from trainer import ConfigError
from trainer.lerobot_data.dataset import LeRobotData
from trainer.lerobot_policies.family import policy_class
from trainer.lerobot_policies.objective import LeRobotPolicy
from trainer.lerobot_policies.saving import save_pretrained
from trainer.simulation.gym import GymEnvironment
from trainer.splitting.parts import split

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `sim`")
spaces = gymnasium.spaces

pytestmark = [needs("lerobot"), pytest.mark.slow]

STEPS = 21
ACTIONS: dict[int, list[np.ndarray]] = {}
"""What each environment was given, by the seed of its episode."""


class Recording(gymnasium.Env):
    """Frames and states of random walks, which depend on the actions. It ends after so many steps as its seed says."""

    metadata = {"render_modes": []}  # noqa: RUF012 gymnasium's form
    _max_episode_steps = STEPS

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        seen = {"pixels": spaces.Box(0, 255, (96, 96, 3), np.uint8), "agent_pos": spaces.Box(0, 512, (2,), np.float64)}
        self.observation_space = spaces.Dict(seen)
        self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self._seed, ACTIONS[seed] = seed, []
            self._frames = self.np_random.integers(0, 256, (STEPS + 2, 96, 96, 3), np.uint8)
            self._at = self.np_random.uniform(50, 450, 2)
        self._step = 0
        return self._seen(), {}

    def step(self, action):
        ACTIONS[self._seed].append(np.array(action))
        self._step += 1
        self._at = np.clip(0.7 * self._at + 0.3 * action, 0, 512)
        return self._seen(), 0.0, self._step >= STEPS - self._seed % 3, False, {"is_success": False}

    def _seen(self):
        return {"pixels": self._frames[self._step], "agent_pos": self._at}


gymnasium.register("test/Recording-v0", Recording, max_episode_steps=STEPS, order_enforce=False)


@functools.cache
def pusht(key, cache):
    return LeRobotData(str(PUSHT), episodes=EPISODES, cache_dir=cache, **TIMES[key])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a function that makes the components of a policy, in parts, and the objective that saw the data."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(key, **more):
        cls, data = policy_class(key), pusht(key, cache)
        torch.manual_seed(5)
        whole = construct(cls, cls.complete_params({**PARAMS[key], **more}, data))
        components = nn.ModuleDict(split(whole, {name: [modules] for name, modules in PARTS[key].items()}))
        objective = LeRobotPolicy()
        objective.prepare(components, data)
        return components.eval(), objective, whole

    return make


def rollout_of_lerobot(policy, preprocessor, postprocessor, seeds):
    """Return the actions of LeRobot's own rollout, by seed."""
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.scripts.lerobot_eval import rollout

    ACTIONS.clear()
    envs = gymnasium.vector.SyncVectorEnv([Recording] * len(seeds))
    identity = PolicyProcessorPipeline(steps=[])
    torch.manual_seed(11)
    rollout(envs, policy, identity, identity, preprocessor, postprocessor, seeds=seeds)
    return {seed: np.stack(given) for seed, given in ACTIONS.items()}


def rollout_of_innerstep(components, objective, seeds, rounds=1):
    ACTIONS.clear()
    environment = GymEnvironment("test/Recording-v0")
    torch.manual_seed(11)
    environment.episodes(objective.actor(components), seeds, len(seeds) // rounds, use_async_envs=False)
    environment.close()
    return {seed: np.stack(given) for seed, given in ACTIONS.items()}


def lerobots_own(key, whole, objective):
    """Return LeRobot's policy with the same weights, and its processors by the statistics of LeRobot's data set."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from sample_lerobot_policies import lerobot_data

    policy = get_policy_class(key)(whole.config)
    policy.load_state_dict(whole.state_dict())
    stats = lerobot_data(whole.config).meta.stats
    return policy.eval(), *make_pre_post_processors(whole.config, dataset_stats=stats)


def assert_same_until_done(ours, theirs, seeds):
    for seed in seeds:
        number = STEPS - seed % 3
        assert len(ours[seed]) == number
        np.testing.assert_array_equal(ours[seed], theirs[seed][:number])
        assert np.abs(np.diff(ours[seed], axis=0)).max() > 0


@pytest.mark.parametrize(
    ("key", "more"),
    [("act", {}), ("act", {"temporal_ensemble_coeff": 0.01, "n_action_steps": 1}), ("diffusion", {})],
    ids=["act", "act_ensemble", "diffusion"],
)
def test_actions_equal_those_of_lerobots_rollout(prepared, key, more):
    components, objective, whole = prepared(key, **more)
    seeds = [3, 4, 5]
    ours = rollout_of_innerstep(components, objective, seeds)
    theirs = rollout_of_lerobot(*lerobots_own(key, whole, objective), seeds)
    assert_same_until_done(ours, theirs, seeds)


def test_each_round_of_episodes_begins_without_a_memory(prepared):
    components, objective, _ = prepared("act")
    one, two = (rollout_of_innerstep(components, objective, [3, 4], rounds) for rounds in (1, 2))
    for seed in (3, 4):
        np.testing.assert_allclose(one[seed], two[seed], rtol=1e-4)


@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_lerobot_loads_what_was_saved_and_acts_the_same(prepared, tmp_path, key):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    components, objective, _ = prepared(key)
    seeds = [6, 7]
    ours = rollout_of_innerstep(components, objective, seeds)
    save_pretrained(tmp_path / "saved", components, objective)
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    config.device = "cpu"
    policy = get_policy_class(config.type).from_pretrained(tmp_path / "saved", config=config, strict=True)
    theirs = rollout_of_lerobot(policy, *make_pre_post_processors(config, str(tmp_path / "saved")), seeds)
    assert_same_until_done(ours, theirs, seeds)


def test_the_state_is_enough_to_act_without_data(prepared):
    components, objective, _ = prepared("diffusion")
    other = LeRobotPolicy()
    other.load_state_dict(objective.state_dict())
    assert (other.features, other.n_obs_steps) == (objective.features, 2)
    ours, theirs = (rollout_of_innerstep(components, each, [8]) for each in (objective, other))
    np.testing.assert_array_equal(ours[8], theirs[8])


def test_a_state_of_other_features_is_refused(prepared):
    _, objective, _ = prepared("act")
    state = dict(objective.state_dict())
    state["features"] = {name: of for name, of in state["features"].items() if name != "observation.state"}
    with pytest.raises(ValueError, match="other data"):
        objective.load_state_dict(state)


def test_two_actors_of_the_same_components_do_not_mix(prepared):
    components, objective, _ = prepared("act")
    seen = {
        "observation.image": torch.zeros(2, 3, 96, 96, dtype=torch.uint8),
        "observation.state": torch.full((2, 2), 200.0),
    }
    first, second = objective.actor(components), objective.actor(components)
    first.act(seen)
    second.act(seen)
    with pytest.raises(ValueError, match="another actor"):
        first.act(seen)
    first.reset()
    assert first.act(seen).shape == (2, 2)


@pytest.mark.parametrize(("key", "steps"), [("act", 16), ("diffusion", 8)])
def test_a_prediction_begins_with_the_action_for_now(prepared, key, steps):
    components, objective, _ = prepared(key)
    n = objective.n_obs_steps
    seen = {
        "observation.image": torch.randint(0, 256, (2, 1, 3, 96, 96), dtype=torch.uint8).expand(-1, n, -1, -1, -1),
        "observation.state": torch.rand(2, 1, 2).mul(400).expand(-1, n, -1),
    }
    torch.manual_seed(2)
    chunk = objective.actions(components, seen)
    assert chunk.shape == (2, steps, 2)
    torch.manual_seed(2)
    now = objective.actor(components).act({name: value[:, -1] for name, value in seen.items()})
    torch.testing.assert_close(chunk[:, 0], now, rtol=1e-4, atol=1e-3)


def test_a_task_is_asked_for_where_the_data_have_several(prepared):
    components, objective, _ = prepared("act")
    objective.load_state_dict({**objective.state_dict(), "tasks": ["push", "pull"]})
    assert objective.actor(components) is not None  # ACT reads no task
    with pytest.raises(ConfigError, match=r"train\.objective\.params\.task.*push"):
        objective._task_of(type("Config", (), {"type": "smolvla"}))
