"""The configs of the pendulum: the environment is the data's, and both objectives beat the policy that recorded it."""

import json

import numpy as np
import pytest
from conftest import ROOT, finish, needs, start

BEHAVIOUR = -305
"""The mean return of the 60 recorded episodes."""
FILE = ROOT / "configs/pendulum/transitions.npz"

pytestmark = needs("gymnasium")


def test_the_environment_has_the_transitions_of_the_file(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "configs")
    import gymnasium
    from pendulum.environment import ID

    env, recorded = gymnasium.make(ID), np.load(FILE)
    env.reset(seed=0)
    for row in range(0, 12_000, 997):
        cosine, sine, speed = recorded["obs"][row].astype(np.float64)
        env.unwrapped.state = np.array([np.arctan2(sine, cosine), 8 * speed])
        obs, reward, terminated, *_ = env.step(recorded["action"][row])
        np.testing.assert_allclose(obs, recorded["next_obs"][row], atol=1e-5)
        assert reward / 10 == pytest.approx(float(recorded["reward"][row]), abs=1e-5)
        assert terminated == recorded["terminal"][row]
    assert env.observation_space.contains(obs)
    assert (env.action_space.low, env.action_space.high) == (-1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_the_policy_is_better_than_the_one_that_recorded_the_data(tmp_path, name):
    evaluation = ["--train.evaluation.seed=700000", "--train.evaluation.every=null", "--train.eval_every=null"]
    options = [f"--train.run_dir={tmp_path / 'run'}", "--seed=5", "--train.device=cpu", *evaluation]
    finish(start("train", f"configs/pendulum_{name}.yaml", *options))
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4000
    assert last["return"] > BEHAVIOUR
