"""`schedule_free_radam` against the library's own class, and the way to the averaged weights and back."""

import copy

import pytest
import torch
from schedulefree import RAdamScheduleFree
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, load_named_state, named_state

FACTORY = OPTIMIZER_BUILDER_REGISTRY["schedule_free_radam"]
OPTIONS = [
    {},
    {"lr": 0.01, "betas": [0.95, 0.99], "eps": 1e-6, "weight_decay": 0.1},
    {"r": 1.0, "weight_lr_power": 1.0, "silent_sgd_phase": False},
    {"foreach": False},
]


def module(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Linear(width, 3)


def train(net, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        net(torch.randn(8, net.in_features)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_as_the_library_does(options):
    net, peer = module(), module()
    ours = FACTORY(**options).build(net)
    theirs = RAdamScheduleFree(peer.parameters(), **{"lr": 0.0025, **options})
    assert isinstance(ours, RAdamScheduleFree)
    for optimizer in (ours, theirs):
        optimizer.train()
    train(net, ours, range(20))
    train(peer, theirs, range(20))
    assert torch.equal(net.weight, peer.weight)
    ours.eval()
    theirs.eval()
    assert torch.equal(net.weight, peer.weight)


def test_the_way_to_the_averaged_weights_and_back_leaves_no_trace():
    net, library_net = module(width=64), module(width=64)
    ours = FACTORY(lr=0.05, silent_sgd_phase=False).build(net)
    library = RAdamScheduleFree(library_net.parameters(), lr=0.05, silent_sgd_phase=False)
    traces = {}
    for optimizer, trained in ((ours, net), (library, library_net)):
        optimizer.train()
        train(trained, optimizer, range(200))
        before = trained.weight.detach().clone()
        for _ in range(20):
            optimizer.eval()
            assert not torch.equal(trained.weight, before)
            optimizer.train()
        traces[optimizer] = not torch.equal(trained.weight, before)
    assert traces == {ours: False, library: True}


def test_weights_changed_in_eval_mode_are_kept():
    net = module()
    optimizer = FACTORY(silent_sgd_phase=False).build(net)
    optimizer.train()
    train(net, optimizer, range(30))
    optimizer.eval()
    with torch.no_grad():
        net.weight[0, 0] = 7.0
    twin = copy.deepcopy(net)
    z = optimizer.state[net.weight]["z"]
    optimizer.train()
    expected = torch.lerp(twin.weight, z, 1 - 0.9)
    assert net.weight[0, 0] == expected[0, 0]
    torch.testing.assert_close(net.weight, expected)


@pytest.mark.parametrize("through", ["state_dict", "named_state"])
@pytest.mark.parametrize("saved_in", ["train", "eval"])
def test_goes_on_bit_exactly_from_either_mode(through, saved_in):
    straight, parted = module(), module()
    whole, first = (FACTORY(silent_sgd_phase=False).build(net) for net in (straight, parted))
    whole.train()
    first.train()
    train(straight, whole, range(30))
    train(parted, first, range(13))
    getattr(first, saved_in)()

    resumed = module(seed=1)
    resumed.load_state_dict(copy.deepcopy(parted.state_dict()))
    second = FACTORY(silent_sgd_phase=False).build(resumed)
    if through == "state_dict":
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    else:
        load_named_state(second, named_state(first))
    second.train()
    train(resumed, second, range(13, 30))
    assert torch.equal(straight.weight, resumed.weight)
    assert whole.state_dict()["param_groups"] == second.state_dict()["param_groups"]


def test_takes_a_schedule_like_any_other():
    curve = {"type": "warmup_cosine_decay", "peak_lr": 1e-2, "total_steps": 10, "warmup_steps": 3}
    optimizer = FACTORY(schedule=curve).build(module())
    optimizer.train()
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert seen == [optimizer.scheduler.schedule.lr_at(k) for k in range(10)]
