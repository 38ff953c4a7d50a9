"""The schedule-free family against the library's own classes, and the way to the averaged weights and back."""

import copy

import pytest
import schedulefree
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from optimizer import OPTIMIZER_BUILDER_REGISTRY, load_named_state, named_state

LIBRARY = {
    "schedule_free_radam": schedulefree.RAdamScheduleFree,
    "schedule_free_adamw": schedulefree.AdamWScheduleFree,
    "schedule_free_sgd": schedulefree.SGDScheduleFree,
}
FAST = {  # so that training weights and averaged weights are well apart
    "schedule_free_radam": {"lr": 0.05, "silent_sgd_phase": False},
    "schedule_free_adamw": {"lr": 0.05},
    "schedule_free_sgd": {"lr": 1.0},
}
OPTIONS = [
    ("schedule_free_radam", {}),
    ("schedule_free_radam", {"lr": 0.01, "betas": [0.95, 0.99], "eps": 1e-6, "weight_decay": 0.1}),
    ("schedule_free_radam", {"r": 1.0, "weight_lr_power": 1.0, "silent_sgd_phase": False}),
    ("schedule_free_radam", {"foreach": False}),
    ("schedule_free_adamw", {}),
    ("schedule_free_adamw", {"lr": 0.01, "betas": [0.95, 0.99], "warmup_steps": 5, "weight_decay": 0.1}),
    ("schedule_free_sgd", {}),
    ("schedule_free_sgd", {"lr": 0.1, "momentum": 0.8, "warmup_steps": 5, "weight_decay": 0.1, "foreach": False}),
]


@pytest.fixture(params=LIBRARY)
def key(request):
    return request.param


@pytest.fixture
def factory(key):
    return OPTIMIZER_BUILDER_REGISTRY[key](**FAST[key])


def module(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Linear(width, 3)


def train(net, optimizer, steps):
    for step in steps:
        torch.manual_seed(step)
        net(torch.randn(8, net.in_features)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("key", "options"), OPTIONS)
def test_steps_as_the_library_does(key, options):
    net, peer = module(), module()
    ours = OPTIMIZER_BUILDER_REGISTRY[key](**options).build(net)
    theirs = LIBRARY[key](peer.parameters(), **options)
    assert isinstance(ours, LIBRARY[key])
    theirs.train()  # ours is in training mode from the start
    train(net, ours, range(20))
    train(peer, theirs, range(20))
    assert torch.equal(net.weight, peer.weight)
    ours.eval()
    theirs.eval()
    assert torch.equal(net.weight, peer.weight)


@pytest.mark.parametrize("key", LIBRARY)
def test_has_the_librarys_defaults(key):
    ours = OPTIMIZER_BUILDER_REGISTRY[key]().build(module()).defaults
    assert ours == LIBRARY[key](module().parameters()).defaults


def test_the_way_to_the_averaged_weights_and_back_leaves_no_trace(key, factory):
    traces = {}
    for name in ("ours", "library"):
        net = module(width=64)
        optimizer = factory.build(net) if name == "ours" else LIBRARY[key](net.parameters(), **FAST[key])
        optimizer.train()
        train(net, optimizer, range(200))
        before = net.weight.detach().clone()
        for _ in range(20):
            optimizer.eval()
            assert not torch.equal(net.weight, before)
            optimizer.train()
        traces[name] = not torch.equal(net.weight, before)
    assert traces == {"ours": False, "library": True}


def test_weights_changed_in_eval_mode_are_kept(factory):
    net = module()
    optimizer = factory.build(net)
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
def test_goes_on_bit_exactly_from_either_mode(factory, through, saved_in):
    straight, parted = module(), module()
    whole, first = (factory.build(net) for net in (straight, parted))
    whole.train()
    first.train()
    train(straight, whole, range(30))
    train(parted, first, range(13))
    getattr(first, saved_in)()

    resumed = module(seed=1)
    resumed.load_state_dict(copy.deepcopy(parted.state_dict()))
    second = factory.build(resumed)
    if through == "state_dict":
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    else:
        load_named_state(second, named_state(first))
    train(resumed, second, range(13, 30))
    assert torch.equal(straight.weight, resumed.weight)
    assert whole.state_dict()["param_groups"] == second.state_dict()["param_groups"]


@pytest.fixture
def averaged(factory):
    """A module at its averaged weights, its optimizer in eval mode, and the training weights that it comes from."""
    net = module()
    optimizer = factory.build(net)
    train(net, optimizer, range(13))
    training_weights = net.weight.detach().clone()
    optimizer.eval()
    return net, optimizer, training_weights


def test_weights_loaded_after_the_optimizers_state_are_taken_back_too_and_it_is_said(factory, averaged):
    net, optimizer, training_weights = averaged
    resumed = module(seed=1)
    second = factory.build(resumed)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(net.state_dict())
    assert not torch.equal(resumed.weight, training_weights)
    evaluated, twin = copy.deepcopy((resumed, second)), copy.deepcopy((resumed, second))
    evaluated[1].eval()
    assert torch.equal(evaluated[0].weight, net.weight)
    twin[1].train()
    assert torch.equal(twin[0].weight, training_weights)

    seen = []
    second.register_step_pre_hook(lambda *_: seen.append(resumed.weight.detach().clone()))
    with pytest.warns(UserWarning, match="Load the module first"):
        train(resumed, second, [13])
    assert torch.equal(seen[0], training_weights)
    train(resumed, second, [14])  # and it is said no more


def test_a_state_saved_in_eval_mode_can_be_loaded_twice(averaged):
    net, optimizer, training_weights = averaged
    state = copy.deepcopy(optimizer.state_dict())
    for _ in range(2):
        optimizer.load_state_dict(copy.deepcopy(state))
        assert torch.equal(net.weight, training_weights)


def test_torchs_set_state_dict_which_loads_the_optimizer_first(factory, averaged):
    net, first, training_weights = averaged
    resumed = module(seed=1)
    second = factory.build(resumed)
    model_state, optimizer_state = copy.deepcopy(get_state_dict(net, first))
    set_state_dict(resumed, second, model_state_dict=model_state, optim_state_dict=optimizer_state)
    second.eval()
    assert torch.equal(resumed.weight, net.weight)
    second.train()
    assert torch.equal(resumed.weight, training_weights)


def test_a_late_group_is_in_the_mode_of_the_others(factory):
    net, late = module(), module(seed=1)
    optimizer = factory.build(net)
    optimizer.add_param_group({"params": [(f"late.{name}", p) for name, p in late.named_parameters()]})
    for step in range(8):
        train(late, optimizer, [step])
    before = late.weight.detach().clone()
    optimizer.eval()
    assert not torch.equal(late.weight, before)
    optimizer.train()
    assert torch.equal(late.weight, before)


def test_takes_a_schedule_like_any_other(key):
    curve = {"type": "warmup_cosine_decay", "peak_lr": 1e-2, "total_steps": 10, "warmup_steps": 3}
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](schedule=curve).build(module())
    optimizer.train()
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert seen == [optimizer.scheduler.schedule.lr_at(k) for k in range(10)]


def test_a_schedule_that_moves_the_momentum_is_refused(key):
    cycle = {"type": "one_cycle", "max_lr": 1e-2, "total_steps": 10}
    with pytest.raises(ValueError, match="cycle_momentum"):
        OPTIMIZER_BUILDER_REGISTRY[key](schedule=cycle).build(module())
    OPTIMIZER_BUILDER_REGISTRY[key](schedule={**cycle, "cycle_momentum": False}).build(module())
