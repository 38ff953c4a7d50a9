"""Weight decay, betas and momentum, each on a separate schedule."""

import copy
import pickle

import pytest
import torch
from pydantic import ValidationError

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

LINEAR = {"type": "linear", "num_training_steps": 10}


def parameter():
    return torch.nn.Parameter(torch.ones(2))


RUN = Horizon(10)


def built(key="adamw", horizon=RUN, **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](**params).build([parameter()], horizon=horizon)


def trace(optimizer, read, length=12):
    values = []
    for _ in range(length):
        values.append(read(optimizer.param_groups[0]))
        optimizer.step()
    return values


FACTORS = [1 - min(k, 10) / 10 for k in range(12)]
READ = {
    "weight_decay": lambda group: group["weight_decay"],
    "eps": lambda group: group["eps"],
    "beta1": lambda group: group["betas"][0],
    "beta2": lambda group: group["betas"][1],
    "momentum": lambda group: group["momentum"],
}


@pytest.mark.parametrize(
    ("key", "option", "params", "own"),
    [
        ("adamw", "weight_decay", {"weight_decay": 0.1}, 0.1),
        ("adamw", "eps", {}, 1e-8),
        ("adamw", "beta1", {}, 0.9),
        ("adamw", "beta2", {"betas": (0.9, 0.95)}, 0.95),
        ("sgd", "momentum", {"momentum": 0.8}, 0.8),
        ("adamw_warmup_cosine_decay", "weight_decay", {"peak_lr": 1e-3}, 0.01),
        ("adamw_cosine_schedule", "weight_decay", {"max_lr": 1e-3}, 0.01),
        ("schedule_free_radam", "weight_decay", {"weight_decay": 0.1}, 0.1),
    ],
)
def test_an_option_follows_its_schedule_and_the_lr_its_own(key, option, params, own):
    optimizer = built(key, option_schedules={option: LINEAR}, **params)
    plain = built(key, **params)
    if hasattr(optimizer, "train"):
        optimizer.train()
        plain.train()
    lrs = trace(plain, lambda group: group["lr"])
    optimizer_lrs, values = [], []
    for _ in range(12):
        optimizer_lrs.append(optimizer.param_groups[0]["lr"])
        values.append(READ[option](optimizer.param_groups[0]))
        optimizer.step()
    assert values == pytest.approx([own * factor for factor in FACTORS])
    assert optimizer_lrs == lrs


def test_what_is_written_is_what_the_update_uses():
    p = parameter()
    factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=1.0, weight_decay=0.5, option_schedules={"weight_decay": LINEAR})
    optimizer = factory.build([p], horizon=Horizon(10))
    expected = torch.ones(2)
    for k in range(10):
        p.grad = torch.zeros(2)
        optimizer.step()
        expected = expected - 0.5 * (1 - k / 10) * expected
        torch.testing.assert_close(p.detach(), expected)


def test_an_absolute_schedule_sets_the_value_and_groups_keep_their_share():
    curve = {"type": "warmup_cosine_decay", "peak_lr": 0.2, "start_lr": 0.05, "warmup_steps": 3}
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](weight_decay=0.1, option_schedules={"weight_decay": curve})
    groups = [
        {"params": [parameter()]},
        {"params": [parameter()], "weight_decay": 0.0},
        {"params": [parameter()], "weight_decay": 0.05},
    ]
    optimizer = factory.build(groups, horizon=Horizon(10))
    for _ in range(12):
        first, none, half = (group["weight_decay"] for group in optimizer.param_groups)
        assert (none, half) == (0.0, pytest.approx(first / 2))
        optimizer.step()
    optimizer = factory.build(groups, horizon=Horizon(10))
    assert [optimizer.param_groups[0]["weight_decay"]] == [0.05]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), "state_dict"])
def test_goes_on_from_any_moment(way):
    def make():
        return built(
            weight_decay=0.1,
            option_schedules={"weight_decay": LINEAR, "beta2": {"type": "StepLR", "step_size": 2, "gamma": 0.9}},
        )

    optimizer = make()
    trace(optimizer, READ["weight_decay"], 4)
    other = make() if way == "state_dict" else way(optimizer)
    if way == "state_dict":
        other.load_state_dict(optimizer.state_dict())
    for _ in range(8):
        assert other.param_groups[0] | {"params": []} == optimizer.param_groups[0] | {"params": []}
        optimizer.step()
        other.step()


def test_another_curve_than_the_saved_one_is_told():
    saved = built(weight_decay=0.1, option_schedules={"weight_decay": LINEAR}).state_dict()
    other = built(weight_decay=0.1, option_schedules={"weight_decay": {**LINEAR, "num_training_steps": 20}})
    with pytest.warns(UserWarning, match=r"weight_decay.num_training_steps: saved 10, now 20"):
        other.load_state_dict(saved)


def test_a_late_group_joins():
    optimizer = built(weight_decay=0.1, option_schedules={"weight_decay": LINEAR})
    trace(optimizer, READ["weight_decay"], 5)
    optimizer.add_param_group({"params": [parameter()], "weight_decay": 0.3})
    assert optimizer.param_groups[1]["weight_decay"] == pytest.approx(0.15)
    assert optimizer.param_groups[1]["initial_weight_decay"] == 0.3


@pytest.mark.parametrize(
    ("key", "params", "message"),
    [
        ("adamw", {"option_schedules": {"momentum": LINEAR}}, "no such option"),
        ("adamw", {"option_schedules": {"weight_decy": LINEAR}}, "did you mean 'weight_decay'"),
        ("sgd", {"option_schedules": {"momentum": LINEAR}}, "own momentum is 0"),
        ("adamw", {"option_schedules": {"lr": LINEAR}}, "no such option"),
        (
            "adamw_cosine_schedule",
            {"max_lr": 1.0, "cycle_momentum": True, "option_schedules": {"beta1": LINEAR}},
            "moves it already",
        ),
        ("adamw", {"option_schedules": {"beta2": {"type": "one_cycle", "max_lr": 0.9}}}, "cycle_momentum to false"),
        ("schedule_free_radam", {"option_schedules": {"beta1": LINEAR}}, "average's share"),
    ],
)
def test_what_cannot_be_moved_is_refused_when_built(key, params, message):
    with pytest.raises(ValueError, match=message):
        built(key, **params)


def test_an_error_inside_names_the_option():
    with pytest.raises(ValidationError, match=r"option_schedules.weight_decay.num_training_steps"):
        built(horizon=None, option_schedules={"weight_decay": {"type": "cosine"}})
    with pytest.raises(ValidationError, match=r"option_schedules.weight_decay"):
        built(option_schedules={"weight_decay": {"type": "cosien"}})
