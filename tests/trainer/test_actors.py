"""The memory of actors: history of observations, queue of actions, temporal ensemble."""

import math

import pytest
import torch
from torch import nn

from trainer.interfaces.policy import Policy
from trainer.policies.actors import ActionQueue, ObservationHistory, PolicyActor, TemporalEnsemble

CHUNK = 4


class Recorder:
    """An actor that keeps what it is asked, and answers with a prediction that is different each time."""

    def __init__(self):
        self.asked, self.resets = [], 0

    def reset(self):
        self.resets += 1

    def act(self, observation):
        self.asked.append(observation)
        torch.manual_seed(len(self.asked))
        return torch.randn(len(observation["state"]), CHUNK, 3)


class Doubling(Policy):
    def losses(self, components, batch):
        raise NotImplementedError

    def actions(self, components, observation):
        return components["head"](observation["state"]) * 2

    def actor(self, components):
        raise NotImplementedError


def observations(steps, environments=2):
    """Return an observation of each time step: `state` (N, 1) holds the number of the step."""
    return [{"state": torch.full((environments, 1), float(step))} for step in range(steps)]


def predictions(steps):
    """Return the predictions of a Recorder that is asked at each time step."""
    recorder = Recorder()
    return [recorder.act(observation) for observation in observations(steps)]


def test_a_policy_actor_returns_the_whole_prediction_without_gradients():
    components = nn.ModuleDict({"head": nn.Linear(1, 3)})
    state = torch.ones(2, CHUNK, 1)
    actions = PolicyActor(Doubling(), components).act({"state": state})
    assert torch.equal(actions, components["head"](state) * 2)
    assert not actions.requires_grad


def test_a_history_repeats_the_first_observation_and_then_moves():
    recorder = Recorder()
    actor = ObservationHistory(recorder, 3)
    for observation in observations(4):
        actor.act(observation)
    assert [asked["state"][1, :, 0].tolist() for asked in recorder.asked] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
    ]


def test_a_history_of_one_step_keeps_shape_and_type_of_frames():
    recorder = Recorder()
    frame = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    ObservationHistory(recorder, 1).act({"state": torch.zeros(2, 1), "camera": frame})
    assert torch.equal(recorder.asked[0]["camera"], frame.unsqueeze(1))
    assert recorder.asked[0]["camera"].dtype == torch.uint8


def test_a_history_does_not_change_with_a_buffer_that_the_environment_uses_again():
    recorder = Recorder()
    actor = ObservationHistory(recorder, 2)
    buffer = torch.zeros(2, 1)
    for step in range(3):
        actor.act({"state": buffer.fill_(step)})
    assert recorder.asked[2]["state"][0, :, 0].tolist() == [1, 2]


def test_a_history_is_complete_when_the_queue_asks_less_often():
    recorder = Recorder()
    actor = ObservationHistory(ActionQueue(recorder, 3), 2)
    for observation in observations(7):
        actor.act(observation)
    assert [asked["state"][0, :, 0].tolist() for asked in recorder.asked] == [[0, 0], [2, 3], [5, 6]]


def test_a_queue_gives_out_the_first_actions_of_each_prediction():
    recorder = Recorder()
    actor = ActionQueue(recorder, 3)
    actions = [actor.act(observation) for observation in observations(7)]
    first, second, third = predictions(3)
    expected = [first[:, 0], first[:, 1], first[:, 2], second[:, 0], second[:, 1], second[:, 2], third[:, 0]]
    assert torch.equal(torch.stack(actions), torch.stack(expected))


def test_a_queue_longer_than_the_prediction_is_refused():
    with pytest.raises(ValueError, match=r"n_action_steps: must be from 1 to 4.* got 5"):
        ActionQueue(Recorder(), 5).act(observations(1)[0])


@pytest.mark.parametrize("coefficient", [0.01, 0.0, -0.5, 2.0])
def test_an_ensemble_equals_the_weighted_mean_of_all_predictions_for_now(coefficient):
    actor = TemporalEnsemble(Recorder(), coefficient)
    actual = [actor.act(observation) for observation in observations(7)]
    predicted = predictions(7)
    for now, action in enumerate(actual):
        total, weight = torch.zeros(2, 3), 0.0
        for i, made in enumerate(range(max(0, now - CHUNK + 1), now + 1)):  # oldest first
            total += math.exp(-coefficient * i) * predicted[made][:, now - made]
            weight += math.exp(-coefficient * i)
        torch.testing.assert_close(action, total / weight)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda actor: ObservationHistory(actor, 2),
        lambda actor: ActionQueue(actor, 3),
        lambda actor: TemporalEnsemble(actor, 0.1),
    ],
    ids=["history", "queue", "ensemble"],
)
def test_reset_forgets_and_another_number_of_environments_needs_it(wrap):
    recorder = Recorder()
    actor = wrap(recorder)
    two, three = observations(1)[0], observations(1, environments=3)[0]
    actor.act(two)
    with pytest.raises(ValueError, match=r"reset the actor .* got 3 after 2"):
        actor.act(three)
    actor.reset()
    assert recorder.resets == 1
    asked = len(recorder.asked)
    after_reset = actor.act(three)
    assert len(recorder.asked) == asked + 1
    torch.manual_seed(asked + 1)
    prediction = torch.randn(3, CHUNK, 3)
    assert torch.equal(after_reset, prediction if isinstance(actor, ObservationHistory) else prediction[:, 0])


@pytest.mark.parametrize(("wrapper", "name"), [(ObservationHistory, "n_obs_steps"), (ActionQueue, "n_action_steps")])
def test_a_memory_of_no_steps_is_refused(wrapper, name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1; got 0"):
        wrapper(Recorder(), 0)
