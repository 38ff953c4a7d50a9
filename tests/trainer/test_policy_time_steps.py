"""Time steps of samples other than the last observations and the next actions: what a policy sees and carries out."""

import pytest
import torch
from conftest import ROOT, needs
from sample_demonstrations import ACTION, COMPONENTS, EPISODE, IMAGE, STATE, WIRING, Demonstrations, recorded

from trainer import ConfigError, TensorSplit
from trainer.config.entries import ComponentConfig, ObjectiveConfig
from trainer.lerobot_data.dataset import LeRobotData

ROUNDING = {"rtol": 1e-4, "atol": 1e-3}
"""Batches of other sizes; the actions are about 200."""


def timed(observations, actions):
    """Return demonstrations whose samples have these time steps of the state and the action, and one frame."""
    data, frames, now = Demonstrations(), recorded(4, 8), torch.arange(EPISODE)
    data.deltas = {IMAGE: [0], STATE: observations, ACTION: actions}
    tensors = {}
    for name, steps in data.deltas.items():
        meant = now[:, None] + torch.tensor(steps)
        inside = meant.clamp(0, EPISODE - 1)
        tensors |= {name: frames[name][:, inside].flatten(0, 1), f"{name}_is_pad": (inside != meant).repeat(4, 1)}
    data.train = TensorSplit(tensors)
    return data


def made(chunk, **params):
    """Return an unprepared policy and its components."""
    head = {"type": "action_transformer", "params": {**COMPONENTS["head"]["params"], "chunk": chunk}}
    parts = {name: ComponentConfig(**config).make(name) for name, config in {**COMPONENTS, "head": head}.items()}
    policy = ObjectiveConfig(type="behaviour_cloning", params={"wiring": WIRING, **params}).make("train.objective")
    return policy, torch.nn.ModuleDict(parts).eval()


def prepared(data, **params):
    policy, components = made(len(data.deltas[ACTION]), **params)
    policy.prepare(components, data)
    return policy, components


def predicted(policy, components, data):
    """Return what is learned from the samples of the first episode: all their actions, in the units of the data."""
    batch = data.train.batch(torch.arange(EPISODE))
    with torch.no_grad():
        return policy.normalization.unnormalize(ACTION, policy.dataflow.run(components, policy.inputs(batch)))


def acted(policy, components):
    """Return the actions in the course of the first episode."""
    frames, actor = recorded(4, 8), policy.actor(components)
    return torch.cat([actor.act({STATE: frames[STATE][:1, t], IMAGE: frames[IMAGE][:1, t]}) for t in range(EPISODE)])


STEPS = [([-4, 0], [0, 1, 2]), ([-1, 0], [-1, 0, 1, 2]), ([-3, -1], [-2, -1, 0])]


@pytest.mark.parametrize(("observations", "actions"), STEPS)
def test_an_actor_sees_the_time_steps_of_the_samples_and_acts_for_now(observations, actions):
    data = timed(observations, actions)
    policy, components = prepared(data, n_action_steps=1)
    expected = predicted(policy, components, data)[:, actions.index(0)]
    torch.testing.assert_close(acted(policy, components), expected, **ROUNDING)
    again, _ = made(len(actions), n_action_steps=1)
    again.load_state_dict(policy.state_dict())
    torch.testing.assert_close(acted(again, components), expected, **ROUNDING)


def test_all_actions_from_now_on_are_carried_out():
    data = timed([0], [-1, 0, 1, 2])
    policy, components = prepared(data)
    expected = predicted(policy, components, data)[::3, 1:].flatten(0, 1)
    torch.testing.assert_close(acted(policy, components), expected, **ROUNDING)
    with pytest.raises(ConfigError, match="n_action_steps: must be at most 3, the actions of a prediction from now on"):
        prepared(data, n_action_steps=4)


def test_the_metric_is_the_error_of_the_action_for_now():
    data = timed([0], [-1, 0, 1])
    policy, components = prepared(data)
    batch = data.train.batch(torch.arange(EPISODE))
    distances = (predicted(policy, components, data)[:, 1] - batch[ACTION][:, 1]).norm(dim=1)
    measured = policy.losses(components, batch).measured()["first_action_error"]
    torch.testing.assert_close(measured, distances.mean(), **ROUNDING)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ([0, 1], [0], f"'{STATE}', which the policy reads, must not be after .* got 0, 1"),
        ([0], [0, 2, 4], f"'{ACTION}', which the policy predicts, must follow one another .* got 0, 2, 4"),
        ([0], [1, 2], f"'{ACTION}', .* have the sample's own, 0.* got 1, 2"),
        ([0], [-2, -1], f"'{ACTION}', .* have the sample's own, 0.* got -2, -1"),
    ],
)
def test_time_steps_that_a_policy_cannot_act_with_are_refused(observations, actions, message):
    with pytest.raises(ConfigError, match=f"data: the time steps of {message}"):
        prepared(timed(observations, actions))


def test_deltas_that_contradict_the_samples_are_refused():
    data = timed([-1, 0], [0, 1, 2])
    data.deltas = {**data.deltas, STATE: [0]}
    with pytest.raises(ConfigError, match=rf"deltas of '{STATE}' are 1 time steps \(0\); a sample has 2"):
        prepared(data)


@needs("pyarrow")
def test_lerobots_data_have_the_time_steps_of_their_samples():
    state = "observation.state"
    data = LeRobotData(
        str(ROOT / "tests/data/pusht"),
        features=[state, "action"],
        n_obs_steps=2,
        delta_timestamps={"action": [-0.1, 0.0, 0.1]},
    )
    assert {name: list(steps) for name, steps in data.deltas.items()} == {state: [-1, 0], "action": [-1, 0, 1]}
    sample = data.train.batch(torch.tensor([5]))
    assert {name: sample[name].shape[1] for name in data.deltas} == {state: 2, "action": 3}
