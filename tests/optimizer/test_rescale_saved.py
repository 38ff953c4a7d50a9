"""An entry into another curve is saved with the optimizer, and restored bit for bit."""

import copy
import json
import pickle
import warnings

import pytest
import torch
from sample_rescaled import FACTORIES, at_update, lr_of, optimizer_of, resumed, trace
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from optimizer import NamedState, load_named_state, load_optimizer_state, named_state, save_optimizer_state

pytestmark = pytest.mark.filterwarnings("ignore:the position is loaded, but the schedule is another:UserWarning")


@pytest.fixture(params=FACTORIES)
def key(request):
    return request.param


def through_state(pair, fresh):
    fresh[1].load_state_dict(copy.deepcopy(pair[1].state_dict()))
    fresh[0].load_state_dict(pair[0].state_dict())
    return fresh


def through_names(pair, fresh):
    state = named_state(pair[1])
    load_named_state(fresh[1], NamedState(state.tensors, json.loads(json.dumps(state.values))))
    fresh[0].load_state_dict(pair[0].state_dict())
    return copy.deepcopy(fresh)


def through_torchs_checkpoint(pair, fresh):
    state = copy.deepcopy(get_optimizer_state_dict(*pair))
    assert "scheduler" not in state
    fresh[0].load_state_dict(pair[0].state_dict())
    set_optimizer_state_dict(*fresh, state)
    return fresh


WAYS = {
    "state_dict": through_state,
    "named_state": through_names,
    "state and groups": through_torchs_checkpoint,
    "deepcopy": lambda pair, fresh: copy.deepcopy(pair),
    "pickle": lambda pair, fresh: pickle.loads(pickle.dumps(pair)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_killed_goes_on_to_the_bit(key, way):
    saved, _ = at_update(300, 600, key)
    whole = resumed(saved, optimizer_of(1200, key))
    trace(whole, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is the same curve
        other = WAYS[way](whole, optimizer_of(1200, key))
    assert lr_of(other[1]) == lr_of(whole[1])
    assert trace(other, 100) == trace(whole, 100)
    assert torch.equal(other[0].weight, whole[0].weight)
    assert other[1].state_dict()["scheduler"] == whole[1].state_dict()["scheduler"]
    assert other[1].param_groups[0]["schedule_entry"] == whole[1].param_groups[0]["schedule_entry"]


def test_files_keep_it(tmp_path):
    saved, _ = at_update(300, 600)
    whole = resumed(saved, optimizer_of(1200))
    save_optimizer_state(whole[1], tmp_path)
    other = optimizer_of(1200)
    load_optimizer_state(other[1], tmp_path)
    assert trace(other, 50) == trace(whole, 50)


def test_a_state_without_an_entry_or_of_another_curve_clears_it():
    saved, _ = at_update(300, 600)
    entered = resumed(saved, optimizer_of(1200))[1].state_dict()
    for state, steps in ((at_update(300, 1200)[0], 1200), (entered, 900)):
        _, optimizer = resumed(saved, optimizer_of(steps))
        optimizer.load_state_dict(copy.deepcopy(state))
        assert lr_of(optimizer) == optimizer.scheduler.schedule.lr_at(300)
        assert "entry" not in optimizer.state_dict()["scheduler"]
        assert "schedule_entry" not in optimizer.param_groups[0]


def test_without_an_entry_nothing_is_added_to_a_state(key):
    _, optimizer = optimizer_of(600, key)
    assert "entry" not in optimizer.state_dict()["scheduler"]
    assert "schedule_entry" not in optimizer.param_groups[0]


GOOD = {"at": 3, "position": 4, "rate": 1.0}


@pytest.mark.parametrize(
    "entry",
    [
        3,
        "at",
        [],
        {},
        [1, 2],
        {"at": 3, "position": 4},
        {**GOOD, "more": 1},
        {**GOOD, "at": -1},
        {**GOOD, "at": True},
        {**GOOD, "position": 2.5},
        {**GOOD, "position": None},
        {**GOOD, "rate": "1"},
        {**GOOD, "rate": -1.0},
        {**GOOD, "rate": float("nan")},
        {**GOOD, "rate": float("inf")},
    ],
)
def test_an_entry_that_is_none_is_refused_before_anything_is_loaded(entry):
    _, optimizer = optimizer_of(600)
    state = copy.deepcopy(optimizer.state_dict())
    trace((_, optimizer), 2)
    groups = [{**group, "schedule_entry": entry, "eps": 1.0} for group in state["param_groups"]]
    for broken in (
        {**state, "param_groups": groups, "scheduler": {**state["scheduler"], "entry": entry}},
        {"state": state["state"], "param_groups": groups},
    ):
        with pytest.raises(ValueError, match=r"^scheduler\.entry"):
            optimizer.load_state_dict(broken)
        assert (optimizer.scheduler.last_epoch, optimizer.param_groups[0]["eps"]) == (2, 1e-8)
