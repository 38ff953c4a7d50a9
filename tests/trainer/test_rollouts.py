"""Episodes of a policy in gymnasium's environments."""

import os

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from optimizer import no_plugins
from trainer import ConfigError, UserCodeError
from trainer.config.evaluation import EvaluationConfig
from trainer.interfaces.features import Feature, FeatureType
from trainer.loop.policy_evaluation import PolicyEvaluation, mean_metrics
from trainer.runtime.rng import separate_rng
from trainer.simulation import rollouts
from trainer.simulation.gym import GymEnvironment

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `sim`")

import sample_envs  # noqa: E402 it imports gymnasium
from sample_envs import GOAL, STATE  # noqa: E402

SEEDS = range(5, 14)


def evaluate_policy(policy, components, config, seed):
    with PolicyEvaluation(config, policy) as evaluation:
        evaluation.check(components, seed)
        episodes = evaluation.episodes(components, seed)
    return mean_metrics(episodes), episodes


class Steer:
    """Goes to the goal, but for episodes in which it starts too far to the left."""

    def __init__(self):
        self.resets, self.seen = 0, []

    def reset(self):
        self.resets += 1

    def act(self, observation):
        self.seen.append(observation)
        action = (observation[GOAL] - observation[STATE]).clamp(-0.7, 0.7)
        return torch.where(observation[STATE][:, :1] < -1, torch.zeros(()), action)


def environment(name="Reach", **params):
    return GymEnvironment(f"sample/{name}-v0", **params)


def episodes(env, batch_size=1, use_async_envs=False, seeds=SEEDS, actor=None, **options):
    try:
        return env.episodes(actor or Steer(), seeds, batch_size, use_async_envs, **options)
    finally:
        env.close()


def plain(episode_seed, name="Reach", **options):
    """Run one episode in a plain loop; return its length, total reward, success, last and highest distance."""
    env, actor = gymnasium.make(f"sample/{name}-v0", **options), Steer()
    seen, _ = env.reset(seed=episode_seed)
    total, length, success, distances, done = 0.0, 0, False, [], False
    while not done:
        observation = {STATE: seen["agent_pos"], GOAL: seen["environment_state"]}
        batch = {key: torch.tensor(value, dtype=torch.float32)[None] for key, value in observation.items()}
        seen, reward, terminated, truncated, info = env.step(actor.act(batch)[0].numpy())
        done, length, total = terminated or truncated, length + 1, total + reward
        success = success or info["is_success"]
        distances.append(info["distance"])
    env.close()
    return length, total, success, distances[-1], max(distances)


@pytest.fixture(scope="module")
def expected():
    found = [plain(seed) for seed in SEEDS]
    assert {success for _, _, success, *_ in found} == {True, False}
    assert len({length for length, *_ in found}) > 2
    return found


@pytest.mark.parametrize(("batch_size", "use_async_envs"), [(1, False), (4, False), (9, False), (4, True)])
def test_episodes_equal_those_of_a_plain_loop(expected, batch_size, use_async_envs):
    found = episodes(environment(), batch_size, use_async_envs)
    assert [episode.seed for episode in found] == list(SEEDS)
    values = [(e.length, e.total_reward, e.success, e.info["distance"], e.info["max_distance"]) for e in found]
    assert values == expected
    assert {name for episode in found for name in episode.info} == {"distance", "max_distance"}


def test_environments_are_made_once_and_stepped_for_running_episodes_alone(monkeypatch):
    made, stepped = [], []
    make, step = gymnasium.make, sample_envs.Reach.step
    monkeypatch.setattr(gymnasium, "make", lambda *a, **o: made.append(1) or make(*a, **o))
    monkeypatch.setattr(sample_envs.Reach, "step", lambda self, action: stepped.append(1) or step(self, action))
    env, actor = environment(), Steer()
    first = env.episodes(actor, SEEDS, 4, False)
    second = env.episodes(actor, SEEDS, 4, False)
    env.close()
    assert first == second
    assert len(made) == 5, "four, and one that is asked for its spaces"
    assert len(stepped) == 2 * sum(episode.length for episode in first)
    assert actor.resets == 6
    assert {len(seen[STATE]) for seen in actor.seen} == {4, 1}, "the last round has one episode"


def test_an_environment_that_takes_its_seed_at_construction_is_made_for_each_episode():
    env = environment("SeededAtMake", seed_at_make="seed")
    found = episodes(env, 4)
    assert found == episodes(env, 2)
    assert [(e.length, e.total_reward) for e in found] == [plain(s, "SeededAtMake", seed=s)[:2] for s in SEEDS]
    assert len({episode.total_reward for episode in found}) == len(SEEDS)


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_an_environment_that_draws_from_shared_generators_repeats_its_episodes(use_async_envs):
    env = environment("Careless")

    def seeded():
        with separate_rng(0):  # as in an evaluation
            return env.episodes(Steer(), SEEDS, 4, use_async_envs)

    found = [seeded(), seeded()]
    env.close()
    found.append(seeded())  # in environments that are made again, as after a resume
    env.close()
    assert found[0] == found[1] == found[2]
    assert len({episode.total_reward for episode in found[0]}) == len(SEEDS)


def test_observations_have_lerobots_names_and_frames_have_channels_first():
    env, actor = environment(env={"pixels": True}), Steer()
    episodes(env, 2, seeds=[1, 2], actor=actor)
    camera = "observation.images.top"
    assert env.features() == {
        STATE: Feature(FeatureType.STATE, (2,)),
        GOAL: Feature(FeatureType.ENV, (2,)),
        camera: Feature(FeatureType.VISUAL, (3, 8, 12)),
    }
    seen = actor.seen[0]
    assert {name: (value.shape[1:], value.dtype) for name, value in seen.items()} == {
        STATE: ((2,), torch.float32),
        GOAL: ((2,), torch.float32),
        camera: ((3, 8, 12), torch.uint8),
    }
    assert seen[camera].nonzero()[:, 1:].tolist() == [[c, 0, 1] for c in range(3)] * 2


def test_names_of_the_user_take_the_place_of_lerobots():
    names = {"agent_pos": "place", "noise": "observation.state"}
    assert environment(observation=names).features() == {
        "place": Feature(FeatureType.STATE, (2,)),
        STATE: Feature(FeatureType.STATE, (1,)),
        GOAL: Feature(FeatureType.ENV, (2,)),
    }
    pendulum = GymEnvironment("Pendulum-v1")
    assert pendulum.features() == {STATE: Feature(FeatureType.STATE, (3,))}


def test_actions_beyond_the_bounds_are_clipped_unless_they_are_passed_on():
    class Far(Steer):
        def act(self, observation):
            return torch.full((len(observation[STATE]), 2), 3.0)

    assert episodes(environment(), actor=Far(), seeds=[1])[0].length == 15
    with pytest.raises(UserCodeError, match=r"step 0 \(from 0\) fails: AssertionError: \[3. 3.\]"):
        episodes(environment(clip_actions=False), actor=Far(), seeds=[1])


def test_actions_of_whole_numbers_are_rounded(monkeypatch):
    seen, step = [], sample_envs.Reach.step
    monkeypatch.setattr(sample_envs.Reach, "step", lambda self, action: seen.append(action) or step(self, action))
    episodes(environment(env={"whole": True}), actor=Returning(torch.tensor([[0.9, -0.6]])), seeds=[1])
    assert {(action.dtype.name, *action.tolist()) for action in seen} == {("int64", 1, -1)}


def test_success_is_unknown_without_an_entry_in_info_and_a_named_entry_must_come():
    silent = episodes(environment(env={"says_success": False}), 3)
    assert {episode.success for episode in silent} == {None}
    assert set(mean_metrics(silent)) == {"return", "episode_length", "distance", "max_distance"}
    with pytest.raises(UserCodeError, match=r"'won' was never in info, which has distance, step"):
        episodes(environment(success_key="won"), seeds=[5])


def test_an_episode_that_does_not_say_it_is_no_success_if_others_say_it(expected):
    successes = [success for _, _, success, *_ in expected]
    found = episodes(environment(env={"says_success": "solved"}), 3)
    assert [episode.success for episode in found] == [success or None for success in successes]
    assert mean_metrics(found)["success"] == np.mean(successes)


def test_the_highest_value_of_a_number_is_that_of_its_steps_with_one(monkeypatch):
    step, gaps = sample_envs.Reach.step, iter([np.nan, 2.0, 1.0])

    def with_gap(self, action):
        *others, info = step(self, action)
        return *others, {**info, "gap": next(gaps, np.nan), "never": np.nan}

    monkeypatch.setattr(sample_envs.Reach, "step", with_gap)
    (episode,) = episodes(environment(env={"ends": False}), seeds=[1])
    assert episode.info["max_gap"] == 2.0
    assert np.isnan([episode.info["gap"], episode.info["max_never"]]).all()


def test_a_task_that_was_solved_at_any_step_is_a_success():
    class Passing(Steer):
        def act(self, observation):
            return super().act(observation) if len(self.seen) < 10 else torch.ones(len(observation[STATE]), 2)

    found = episodes(environment(env={"ends": False}), 3, actor=Passing(), seeds=[6])
    assert [(episode.success, episode.length) for episode in found] == [(True, 15)]
    assert found[0].info["distance"] > 0.5


def test_metrics_are_means_over_the_episodes(expected):
    metrics = mean_metrics(episodes(environment(), 4))
    lengths, returns, successes, last, highest = map(list, zip(*expected, strict=True))
    means = {"success": successes, "return": returns, "episode_length": lengths, "distance": last}
    assert metrics == pytest.approx({name: np.mean(of) for name, of in {**means, "max_distance": highest}.items()})


REFUSED = {
    "no such environment": ({"id": "sample/Reech-v0"}, r"id: gymnasium has no environment 'sample/Reech-v0'; did you"),
    "no limit": ({"id": "sample/Endless-v0"}, r"max_episode_steps: required, as sample/Endless-v0 has no limit"),
    "no such argument": ({"id": "sample/Reach-v0", "env": {"colour": 1}}, "sample/Reach-v0 cannot be made: TypeError"),
    "no such array": (
        {"id": "sample/Reach-v0", "observation": {"agentpos": "x"}},
        "no 'agentpos'.*did you mean",
    ),
    "one name for two": (
        {"id": "sample/Reach-v0", "observation": {"noise": GOAL}},
        "must have different names",
    ),
    "actions of no Box": ({"id": "CartPole-v1"}, r"the actions of CartPole-v1 must be arrays \(a Box\); got Discrete"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_environment_that_cannot_work_is_refused(case):
    params, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        GymEnvironment(**params).features()


def test_a_limit_and_a_module_before_the_id_are_accepted():
    env = GymEnvironment("sample_envs:sample/Endless-v0", max_episode_steps=3)
    assert [episode.length for episode in episodes(env, seeds=[1, 2, 3])] == [2, 3, 3]


def test_no_module_is_imported_for_an_untrusted_config():
    with no_plugins(), pytest.raises(ValidationError, match="--no-plugins"):
        EvaluationConfig(type="gym", params={"id": "sample_envs:sample/Reach-v0"})


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_a_failing_environment_is_reported_with_its_line_and_leaves_no_process(tmp_path, use_async_envs):
    pids = tmp_path / "pids"
    env = environment("Faulty", env={"pidfile": str(pids)})
    with pytest.raises(UserCodeError, match=r"step 2 \(from 0\) fails: ZeroDiv.*exploded \(sample_envs.py:\d+\)"):
        episodes(env, 2, use_async_envs)
    assert not use_async_envs or _alive(pids) == []


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_an_environment_that_ends_its_process_fails_as_by_an_error(use_async_envs):
    with pytest.raises(UserCodeError, match=r"step 2 \(from 0\) fails: SystemExit: no licence \(sample_envs.py:\d+\)"):
        episodes(environment("Faulty", env={"way": "exits"}), 2, use_async_envs)


@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's own report of it
def test_an_observation_of_another_shape_leaves_no_process(tmp_path):
    env = environment("Faulty", env={"pidfile": str(tmp_path / "pids"), "way": "shape"})
    with pytest.raises(ValueError, match="shape"):
        episodes(env, 2, use_async_envs=True)
    assert _alive(tmp_path / "pids") == []


def test_a_process_that_dies_is_reported_and_the_others_are_ended(tmp_path):
    pids = tmp_path / "pids"
    env = environment("Faulty", env={"pidfile": str(pids), "way": "dies"})
    with pytest.raises(UserCodeError, match="the process of an environment has died"):
        env.episodes(Steer(), SEEDS, 2, True)
    assert _alive(pids) == []
    assert len(set(pids.read_text().split())) == 3, "two, and this one, which asked for the spaces"


def test_processes_that_hang_are_waited_for_together(monkeypatch):
    now = [0.0]

    class Hanging:
        is_killed = False

        def join(self, timeout=0.0):
            now[0] += timeout

        def is_alive(self):
            return not self.is_killed

        def kill(self):
            self.is_killed = True

    monkeypatch.setattr(rollouts, "monotonic", lambda: now[0])
    envs = object.__new__(gymnasium.vector.AsyncVectorEnv)
    envs.parent_pipes, envs.processes = [], [Hanging() for _ in range(16)]
    rollouts.close_vector_env(envs)
    assert all(process.is_killed for process in envs.processes)
    assert now[0] == 5.0


def _alive(pids):
    """Return the processes in a file, but this one, that are still there."""
    others = {int(pid) for pid in pids.read_text().split()} - {os.getpid()}
    return [pid for pid in others if os.path.exists(f"/proc/{pid}")]


class Returning(Steer):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def act(self, observation):
        return self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1, 3), r"actions of shape \[1, 2\]; got \[1, 3\]"),
        (np.zeros((1, 2)), r"actions of shape \[1, 2\]; got ndarray"),
        (torch.full((1, 2), torch.nan), r"not finite at step 0"),
    ],
)
def test_what_is_no_action_is_refused(value, message):
    with pytest.raises(UserCodeError, match=message):
        episodes(environment(), actor=Returning(value), seeds=[1])


def test_a_policy_is_evaluated_by_one_call():
    config = EvaluationConfig(type="gym", params={"id": "sample/Reach-v0"}, n_episodes=5, batch_size=2, seed=3)
    policy, components = sample_envs.ReachPolicy(noise=0.5), torch.nn.ModuleDict({"head": sample_envs.Steering()})
    components.eval()
    random = torch.get_rng_state()
    metrics, found = evaluate_policy(policy, components, config, seed=0)
    policy.load_state_dict(sample_envs.ReachPolicy().state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert [episode.seed for episode in found] == [3, 4, 5, 6, 7]
    assert evaluate_policy(policy, components, config, seed=0) == (metrics, found)
    assert evaluate_policy(policy, components, config, seed=1) != (metrics, found)


@pytest.mark.parametrize(("record", "frames"), [(1, 16), (4, 5), (15, 2), (40, 2)])
def test_a_recording_has_the_first_the_last_and_each_so_many_th_frame(monkeypatch, record, frames):
    rendered = []
    render = sample_envs.Reach.render
    monkeypatch.setattr(sample_envs.Reach, "render", lambda self: rendered.append(self._at.copy()) or render(self))
    seed = next(seed for seed in range(99) if plain(seed)[0] == 15)
    (episode,) = episodes(environment(), seeds=[seed], record=record)
    recording = episode.recording
    assert len(recording.frames) == frames
    assert (recording.frames_per_second, recording.no_frames, recording.path_of) == (10.0, "", STATE)
    shown = [*range(0, 15, record), 15]
    np.testing.assert_allclose(recording.path[shown], rendered[1:], rtol=1e-6)  # the first was to see whether it can
    assert len(recording.path) == 16
