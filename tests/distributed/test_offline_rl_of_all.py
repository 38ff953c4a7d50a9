"""Offline reinforcement learning in two processes is that in one, but for rounding."""

import pytest
import sample_transitions
from sample_batch_parts import assert_same_runs, run_of

ADAM = {"type": "adam", "params": {"lr": 1e-2}}
PARAMS = {"iql": {"temperature": 1.0}, "td3_bc": {"policy_noise": 0.0}}


def made(run_dir, path, objective, placements):
    """Return the config of a run in float64. The last batch of an epoch has two transitions, the others six."""
    components = {}
    for name, entry in sample_transitions.COMPONENTS[objective].items():
        kind = {} if "ema_of" in entry else {"type": "wide_mlp"}
        components[name] = {**entry, **kind, **placements.get(name, {})}
    optims = {name: ADAM for name, entry in components.items() if "ema_of" not in entry}
    optims["actor"] = {**ADAM, "every": 2}
    given = {"params": PARAMS[objective], "components": components, "optims": optims, "data": {"batch_size": 6}}
    run = sample_transitions.rl_config(run_dir, path, objective, total_steps=8, **given)
    return {**run, "plugins": ["sample_batch_parts"]}


@pytest.mark.parametrize("placements", [{}, {"actor": {"placement": "shard"}, "critic_1": {"placement": "shard"}}])
@pytest.mark.parametrize("objective", ["iql", "td3_bc"])
def test_two_processes_are_as_one(tmp_path, two_workers, objective, placements):
    path = sample_transitions.write(tmp_path / "data.npz")
    alone = run_of(made(tmp_path / "one", path, objective, placements))
    assert_same_runs(two_workers.call(run_of, made(tmp_path / "two", path, objective, placements)), alone)
