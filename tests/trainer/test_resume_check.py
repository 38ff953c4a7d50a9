"""check_resumes: passes where all state is saved, and names what is not where it is not."""

import random
import re

import pytest
import sample_parts
import torch
from sample_runs import ADAMW, PLATEAU, SCHEDULE_FREE, WARMUP, config, two
from torch import nn

from trainer import MODEL_REGISTRY, OBJECTIVE_REGISTRY, ConfigError, check_resumes

OPTIMS = {"first": WARMUP, "second": ADAMW}
NORMED = {"type": "normed"}
ACTOR_CRITIC = (
    {"actor": NORMED, "critic": NORMED, "target": {"type": "normed", "freeze": True}},
    {"actor": ADAMW, "critic": WARMUP},
)
CASES = {
    "one loss": (two(), OPTIMS, {}),
    "an epoch that ends where the first half does": (two(), OPTIMS, {"data": {"batch_size": 13}}),
    "a delayed actor and a counter": (*ACTOR_CRITIC, {"objective": "delayed_actor_critic"}),
    "a data set with state": (two(), OPTIMS, {"data": {"type": "jittered"}}),
    "an objective with a buffer": (two(), OPTIMS, {"objective": "buffered"}),
    "plateau and schedule-free": (two(), {"first": PLATEAU, "second": SCHEDULE_FREE}, {"eval_every": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_runs_with_saved_state_resume(case, tmp_path):
    components, optims, options = CASES[case]
    check_resumes(config(tmp_path / "unused", components, optims, **options))
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("updates", [3, 5])
@pytest.mark.parametrize("every", [1, 2])
def test_a_run_resumes_also_between_two_steps_of_a_delayed_actor(updates, every):
    components, optims = ACTOR_CRITIC
    optims = {**optims, "actor": {**ADAMW, "every": every}}
    check_resumes(config("unused", components, optims, objective="delayed_actor_critic"), updates=updates)


def test_it_keeps_both_runs_where_it_is_told_to_and_resumes_inside_an_epoch_too(tmp_path):
    options = {"data": {"batch_size": 13}}  # three updates an epoch
    check_resumes(config("unused", two(), OPTIMS, **options), updates=3, directory=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"uninterrupted", "resumed_after_3", "resumed_after_2"}


def test_the_random_numbers_of_the_caller_stay(tmp_path):
    before = torch.get_rng_state(), random.getstate()
    check_resumes(config("unused", two(), OPTIMS), updates=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_an_unsaved_counter_is_found_by_the_metrics_and_tensors_that_it_changes():
    with pytest.raises(AssertionError) as found:
        check_resumes(config("unused", *ACTOR_CRITIC, objective="forgetful_actor_critic"), updates=3)
    for text in ("resumed after 3 updates", "metrics: train, step 3: mean_of_last: ", "metrics: train, step 4: loss"):
        assert text in str(found.value)
    assert re.search(r"actor +weights +linear.weight", str(found.value))
    assert re.search(r"actor.optimizer.* 2 +1|actor.optimizer", str(found.value))
    assert "critic +state" in str(found.value) or re.search(r"critic +state +linear.weight/exp_avg", str(found.value))


class _HiddenRandomness(nn.Module):
    """Draws from a generator that nothing saves."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.generator = random.Random(0)

    def forward(self, x):
        return self.linear(x) * (self.generator.random() if self.training else 1.0)


class _ExtraDraws(sample_parts.Regression):
    """Draws one more random number in its first update."""

    drawn = False

    def losses(self, components, batch):
        if torch.is_grad_enabled() and not self.drawn:
            self.drawn = True
            torch.rand(1)
        return super().losses(components, batch)


class _UnsavedBest(sample_parts.Regression):
    """Has a state, and leaves something out of it."""

    def __init__(self):
        self.lowest, self.updates = float("inf"), 0

    def update(self, *arguments, **step):
        outcome = super().update(*arguments, **step)
        self.lowest, self.updates = min(self.lowest, float(outcome.total.detach())), self.updates + 1
        return outcome

    def state_dict(self):
        return {"lowest": self.lowest, "updates": self.updates}

    def load_state_dict(self, state):
        self.lowest = state["lowest"]


def test_what_a_component_hides_is_found(monkeypatch):
    monkeypatch.setitem(MODEL_REGISTRY._classes, "hidden", _HiddenRandomness)
    monkeypatch.setitem(MODEL_REGISTRY._keys, "hidden", "hidden")
    components = {"first": {"type": "hidden"}, "second": NORMED}
    with pytest.raises(AssertionError, match=r"first +weights +linear.bias"):
        check_resumes(config("unused", components, OPTIMS), updates=2)


def _registered(monkeypatch, cls):
    monkeypatch.setitem(OBJECTIVE_REGISTRY._classes, cls.__name__, cls)
    monkeypatch.setitem(OBJECTIVE_REGISTRY._keys, cls.__name__.lower(), cls.__name__)
    return cls.__name__


def test_random_numbers_that_are_drawn_otherwise_are_found(monkeypatch):
    name = _registered(monkeypatch, _ExtraDraws)
    with pytest.raises(AssertionError, match="random number generators: differ"):
        check_resumes(config("unused", {"first": NORMED}, {"first": ADAMW}, objective=name), updates=2)


def test_state_that_is_saved_and_not_restored_is_named(monkeypatch):
    name = _registered(monkeypatch, _UnsavedBest)
    with pytest.raises(AssertionError, match=r"objective.updates +4 +2"):
        check_resumes(config("unused", {"first": NORMED}, {"first": ADAMW}, objective=name), updates=2)


def test_a_half_longer_than_half_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"updates: must be from 1 to 6, .*; got 7"):
        check_resumes(config("unused", two(), OPTIMS), updates=7)
