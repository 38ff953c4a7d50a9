"""Several Adams by name."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

MULTI = OPTIMIZER_BUILDER_REGISTRY["multi_adam"]
GROUPS = {"policy": {"lr": 1e-4, "weight_decay": 1e-5}, "value": {"lr": 1e-3, "weight_decay": 1e-4}}


def parts():
    torch.manual_seed(0)
    return nn.ModuleDict({"policy": nn.Linear(3, 2), "value": nn.Linear(3, 1)})


def test_each_is_the_adam_that_its_options_describe():
    module = parts()
    optimizers = MULTI(optimizer_groups=GROUPS).build({name: part.parameters() for name, part in module.items()})
    assert list(optimizers) == ["policy", "value"]
    for name, optimizer in optimizers.items():
        assert isinstance(optimizer, torch.optim.Adam)
        group = optimizer.param_groups[0]
        assert {option: group[option] for option in ("lr", "weight_decay")} == GROUPS[name]
        assert (group["betas"], group["eps"], optimizer.grad_clip_norm) == ((0.9, 0.999), 1e-5, 10.0)
        assert {id(p) for p in group["params"]} == {id(p) for p in module[name].parameters()}


def test_shared_options_hold_where_a_group_says_nothing():
    factory = MULTI(
        lr=3e-3,
        weight_decay=0.2,
        betas=[0.5, 0.6],
        grad_clip_norm=1.0,
        optimizer_groups={"policy": {}, "value": {"lr": 1.0}},
    )
    optimizers = factory.build(parts())
    policy, value = (optimizers[name].param_groups[0] for name in ("policy", "value"))
    assert (policy["lr"], policy["weight_decay"], policy["betas"]) == (3e-3, 0.2, (0.5, 0.6))
    assert (value["lr"], value["weight_decay"], optimizers["value"].grad_clip_norm) == (1.0, 0.2, 1.0)


def test_each_has_its_schedule_inside():
    schedule = {"type": "linear"}
    factory = MULTI(
        lr=1.0,
        schedule=schedule,
        optimizer_groups={"policy": {}, "value": {"schedule": {"type": "StepLR", "step_size": 2}}},
    )
    optimizers = factory.build(parts(), horizon=Horizon(10))
    for _ in range(4):
        for optimizer in optimizers.values():
            optimizer.step()
    assert optimizers["policy"].param_groups[0]["lr"] == pytest.approx(0.6)
    assert optimizers["value"].param_groups[0]["lr"] == pytest.approx(0.01)


def test_sets_without_an_entry_take_the_shared_options():
    module = parts()
    optimizers = MULTI(lr=0.3, eps=1e-6).build({"default": list(module.parameters())})
    assert list(optimizers) == ["default"]
    assert (optimizers["default"].defaults["lr"], optimizers["default"].defaults["eps"]) == (0.3, 1e-6)
    module["act"] = nn.Tanh()  # nothing to train
    optimizers = MULTI(lr=0.3, optimizer_groups={"value": {"lr": 0.7}}).build(module)
    assert {name: one.defaults["lr"] for name, one in optimizers.items()} == {"policy": 0.3, "value": 0.7}


def test_entries_without_parameters_are_refused():
    module = parts()
    factory = MULTI(optimizer_groups=GROUPS)
    with pytest.raises(ValueError, match=r"no parameters of 'value'.*did you mean 'valeu'"):
        factory.build({"policy": module["policy"].parameters(), "valeu": module["value"].parameters()})
    with pytest.raises(ValueError, match=r"no parameters of 'value'.*Given: policy"):
        factory.build({"policy": module["policy"].parameters()})
    with pytest.raises(ValueError, match="takes parameters by name"):
        factory.build(list(module.parameters()))
    with pytest.raises(ValueError, match="belong to no child: weight, bias"):
        factory.build(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optimizer_groups": {"policy": {"learning_rate": 1}}}, r"optimizer_groups.policy.learning_rate"),
        ({"optimizer_groups": {"policy": {"lr": -1.0}}}, r"optimizer_groups.policy"),
        ({"optimizer_groups": {"policy": {}}, "epss": 1}, "did you mean 'eps'"),
    ],
)
def test_a_malformed_config_is_refused(params, message):
    with pytest.raises(ValidationError, match=message):
        MULTI(**params)


def test_round_trips_through_its_dump():
    factory = MULTI(optimizer_groups=GROUPS, schedule={"type": "cosine"})
    assert MULTI(**factory.model_dump(mode="json")) == factory
