"""The scheduler object for tools that insist on one."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, ReadOnlyScheduler


def built(module):
    groups = [{"params": module.weight}, {"params": module.bias, "lr": 0.1}]
    schedule = {"type": "cosine", "num_warmup_steps": 3}
    return OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1.0, schedule=schedule).build(groups, horizon=Horizon(20))


def test_reports_and_moves_nothing():
    module = nn.Linear(2, 2)
    optimizer, alone = built(module), built(copy.deepcopy(module))
    stand_in = ReadOnlyScheduler(optimizer)
    assert isinstance(stand_in, LRScheduler)
    for k in range(25):
        lrs = [group["lr"] for group in alone.param_groups]
        assert stand_in.get_last_lr() == stand_in.get_lr() == [group["lr"] for group in optimizer.param_groups] == lrs
        assert (stand_in.last_epoch, stand_in.base_lrs) == (k, [1.0, 0.1])
        optimizer.step()
        stand_in.step()
        stand_in.step(k)
        alone.step()


def test_its_state_is_the_optimizers():
    optimizer = built(nn.Linear(2, 2))
    stand_in = ReadOnlyScheduler(optimizer)
    optimizer.step()
    assert stand_in.state_dict() == {}
    stand_in.load_state_dict({})
    with pytest.raises(ValueError, match="has no state"):
        stand_in.load_state_dict({"last_epoch": 3})
    for other_optimizer, other in (
        copy.deepcopy((optimizer, stand_in)),
        pickle.loads(pickle.dumps((optimizer, stand_in))),
    ):
        other_optimizer.step()
        assert (other.last_epoch, stand_in.last_epoch) == (2, 1)


def test_a_plain_optimizer_has_none():
    with pytest.raises(ValueError, match="SGD has no schedule inside"):
        ReadOnlyScheduler(torch.optim.SGD(nn.Linear(2, 2).parameters()))
