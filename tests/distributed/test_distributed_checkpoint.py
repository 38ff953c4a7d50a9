"""torch.distributed.checkpoint on an optimizer of sharded parameters that has its schedule inside."""

import copy

import pytest
import torch
from sample_shards import PARAMS, apart, built, network, sharded_network, trained, update, whole
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

WHOLE = StateDictOptions(full_state_dict=True)


def continued(first, second):
    """Train two networks with their optimizers on, and return how they compare."""
    (module, optimizer), (other, twin) = first, second
    weights = {name: whole(value) for name, value in module.state_dict().items()}
    for name, value in other.state_dict().items():
        value.copy_(torch.distributed.tensor.distribute_tensor(weights[name], value.device_mesh, value.placements))
    report = {
        "positions": [its.scheduler.last_epoch for its in (optimizer, twin)],
        "lrs": [its.param_groups[0]["lr"] for its in (optimizer, twin)],
        "sharded": all(
            isinstance(entry[name], DTensor) for entry in twin.state.values() for name in entry if name != "step"
        ),
        "counts": {int(entry["step"]) for entry in twin.state.values() if "step" in entry},
    }
    for one, its in ((module, optimizer), (other, twin)):
        update(one, its, range(3, 5))
    return {**report, "apart": apart(module, other)}


def restored(key, options):
    """Return how an optimizer compares with one that the functions for state dicts restored."""
    module, other = sharded_network(), sharded_network()
    optimizer, twin = trained(module, key), built(other, key)
    state = copy.deepcopy(get_optimizer_state_dict(module, optimizer, options=options))
    set_optimizer_state_dict(other, twin, state, options=options)
    return continued((module, optimizer), (other, twin))


def restored_from_files(key, folder):
    """Return how an optimizer compares with one that was restored from a distributed checkpoint on disk."""
    module, other = sharded_network(), sharded_network()
    optimizer, twin = trained(module, key), built(other, key)
    checkpoint.save({"optimizer": get_optimizer_state_dict(module, optimizer)}, checkpoint_id=folder)
    state = {"optimizer": get_optimizer_state_dict(other, twin)}
    checkpoint.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(other, twin, state["optimizer"])
    return continued((module, optimizer), (other, twin))


def check(reports):
    for report in reports:
        assert report["positions"] == [3, 3]
        assert report["lrs"][0] == report["lrs"][1]
        assert report["sharded"]
        assert report["counts"] in ({3}, set())
        assert report["apart"] == 0


@pytest.mark.parametrize("options", [None, WHOLE], ids=["shards", "whole"])
@pytest.mark.parametrize("key", PARAMS)
def test_a_state_dict_restores_state_position_and_next_lr(two_workers, key, options):
    check(two_workers.call(restored, key, options))


@pytest.mark.parametrize("key", PARAMS)
def test_a_checkpoint_on_disk_restores_state_position_and_next_lr(two_workers, key, tmp_path):
    check(two_workers.call(restored_from_files, key, tmp_path / "checkpoint"))


def whole_into_one_piece(key):
    """Return the position and counts of an unsharded optimizer that takes a sharded one's whole state."""
    module, other = sharded_network(), network()
    optimizer, twin = trained(module, key), built(other, key)
    state = get_optimizer_state_dict(module, optimizer, options=WHOLE)
    set_optimizer_state_dict(other, twin, copy.deepcopy(state))
    return twin.scheduler.last_epoch, {int(entry["step"]) for entry in twin.state.values()}


def test_whole_state_of_shards_is_loaded_into_one_piece(two_workers):
    assert two_workers.call(whole_into_one_piece, "adamw") == [(3, {3})] * 2
