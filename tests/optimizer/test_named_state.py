"""Optimizer state by parameter name."""

import json

import pytest
import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, NamedState, StateMismatchError, load_named_state, named_state


def net(**layers):
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in layers.items()})


def trained(module, **params):
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**params).build(module)
    for _ in range(3):
        sum(layer(torch.ones(2, layer.in_features)).square().sum() for layer in module.values()).backward()
        optimizer.step()
    return optimizer


def through_json(state):
    return NamedState(state.tensors, json.loads(json.dumps(state.values)))


def test_reordered_definitions_get_the_right_moments():
    saved = trained(net(a=(3, 2), b=(3, 2)))
    module = net(b=(3, 2), a=(3, 2))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(module)
    load_named_state(optimizer, through_json(named_state(saved)))
    states = named_state(optimizer).tensors
    assert states.keys() == named_state(saved).tensors.keys()
    for name, tensor in named_state(saved).tensors.items():
        assert torch.equal(states[name], tensor), name
    assert torch.equal(optimizer.state[module["a"].weight]["exp_avg"], states["a.weight/exp_avg"])
    assert optimizer.scheduler.last_epoch == 3


def test_a_mismatch_names_everything_at_once_and_changes_nothing():
    saved = named_state(trained(net(a=(3, 2), b=(3, 2), c=(3, 2))))
    optimizer = trained(net(a=(3, 4), b=(3, 2), d=(3, 2)))
    before = {name: tensor.clone() for name, tensor in named_state(optimizer).tensors.items()}
    with pytest.raises(StateMismatchError) as refused:
        load_named_state(optimizer, saved)
    message = str(refused.value)
    assert "missing: d.bias, d.weight" in message
    assert "extra: c.bias, c.weight" in message
    assert "mis-shaped: a.bias (saved [2], here [4]), a.weight (saved [2, 3], here [4, 3])" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_state(optimizer).tensors.items())


def test_groups_are_matched_by_their_names():
    def grouped(order):
        module = net(a=(3, 2), b=(3, 2))
        groups = {
            name: {"params": [(f"{name}.{path}", p) for path, p in module[name].named_parameters()], "lr": lr}
            for name, lr in (("a", 1e-2), ("b", 1e-3))
        }
        return OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2).build([groups[name] for name in order])

    saved = grouped("ab")
    saved.param_groups[0]["weight_decay"] = 0.7
    other = grouped("ba")
    other.param_groups[1]["weight_decay"] = 0.7
    load_named_state(other, through_json(named_state(saved)))
    assert [group["weight_decay"] for group in other.param_groups] == [0.01, 0.7]
    assert [group["lr"] for group in other.param_groups] == [1e-3, 1e-2]


def test_a_plain_optimizer_takes_the_saved_options_and_so_needs_the_saved_groups():
    module = net(a=(3, 2), b=(3, 2))

    def plain(order):
        groups = [
            {"params": list(module[name].named_parameters(name)), "lr": 0.1 if name == "a" else 0.2} for name in order
        ]
        return torch.optim.SGD(groups, lr=1.0)

    saved = named_state(plain("ab"))
    other = plain("ba")
    other.param_groups[0]["lr"] = 0.5
    load_named_state(other, through_json(saved))
    assert [group["lr"] for group in other.param_groups] == [0.2, 0.1]
    with pytest.raises(StateMismatchError, match="parameter groups differ"):
        load_named_state(torch.optim.SGD(module.named_parameters(), lr=1.0), saved)


def test_options_come_back_from_json_in_their_own_types():
    saved, fresh = trained(net(a=(3, 2)), betas=(0.8, 0.9)), trained(net(a=(3, 2)), betas=(0.8, 0.9))
    load_named_state(fresh, through_json(named_state(saved)))
    assert fresh.param_groups[0]["betas"] == (0.8, 0.9)


def test_plain_optimizers_have_named_state_too():
    module = net(a=(3, 2))
    plain = torch.optim.SGD(module.named_parameters(), lr=0.1, momentum=0.9)
    module["a"](torch.ones(1, 3)).sum().backward()
    plain.step()
    fresh = torch.optim.SGD(module.named_parameters(), lr=0.1, momentum=0.9)
    load_named_state(fresh, through_json(named_state(plain)))
    assert torch.equal(fresh.state[module["a"].weight]["momentum_buffer"], torch.ones(2, 3))


def test_an_optimizer_without_names_is_refused():
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="named_parameters"):
        named_state(optimizer)


class CountedName(str):
    """A parameter's name that counts how often it is compared with another object."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedName.comparisons += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("kept_apart", [False, True])
def test_names_are_looked_up_and_not_searched(kept_apart):
    """Building and loading 400 parameters, in one group or in many, takes a few comparisons a name, not 400."""
    count = 400
    named = [(CountedName(f"layers.{index}.weight"), nn.Parameter(torch.zeros(1))) for index in range(count)]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](**({"layer_decay": 0.99} if kept_apart else {}))
    CountedName.comparisons = 0
    optimizer = factory.build(named)
    for _, parameter in named:
        parameter.grad = torch.ones(1)
    optimizer.step()
    load_named_state(optimizer, through_json(named_state(optimizer)), own_options=True)
    assert len(optimizer.param_groups) == (count if kept_apart else 1)
    assert CountedName.comparisons < 20 * count
