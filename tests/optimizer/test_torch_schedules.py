"""PyTorch's schedulers inside the step, against the two-object pattern side by side."""

import copy
import pickle

import pytest
import torch
from pydantic import ValidationError
from sample_torch_schedules import CASES, OPTIONS, flat, of_torch, parameter
from torch.optim import lr_scheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY
from optimizer.schedules.pytorch import REGISTERED_ELSEWHERE
from optimizer.schedules.torch_schedule import TorchSchedule


def ours(name, options, key="adamw", **params):
    factory = OPTIMIZER_BUILDER_REGISTRY[key](schedule={"type": name, **flat(options)}, **params)
    return factory.build([parameter()])


def values(optimizer):
    group = optimizer.param_groups[0]
    return group["lr"], group["betas"][0] if "betas" in group else group["momentum"]


def test_every_class_of_torch_is_here_or_said_to_be_elsewhere():
    classes = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler) and name[0] != "_"
    }
    assert {*classes, "SWALR"} == {*OPTIONS, *REGISTERED_ELSEWHERE}
    assert OPTIONS.keys() == {name for name, cls in SCHEDULE_REGISTRY.items() if issubclass(cls, TorchSchedule)}


@pytest.mark.parametrize("key", ["adamw", "sgd"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_trace_is_that_of_the_two_object_pattern(name, options, key):
    params = {"lr": 3e-3, **({"momentum": 0.9} if key == "sgd" else {})}
    optimizer = ours(name, options, key, **params)
    theirs = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[key]([parameter()], **params)
    scheduler = of_torch(name, options, theirs)
    for _ in range(300):
        assert values(optimizer) == values(theirs)
        optimizer.step()
        theirs.step()
        scheduler.step()


def test_a_cosine_does_not_rise_again_after_its_end():
    optimizer = ours("CosineAnnealingLR", {"T_max": 20, "eta_min": 1e-5})
    trace = []
    for _ in range(50):
        trace.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert trace[20:] == [trace[20]] * 30
    assert trace[20] == pytest.approx(1e-5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), "state_dict"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_goes_on_from_any_position(name, options, way):
    straight = ours(name, options)
    for _ in range(41):
        straight.step()
    if way == "state_dict":
        other = ours(name, options)
        other.load_state_dict(straight.state_dict())
    else:
        other = way(straight)
    for _ in range(60):
        assert values(other) == values(straight)
        other.step()
        straight.step()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_goes_back_to_any_position(name, options):
    optimizer = ours(name, options)
    early, state = [], optimizer.state_dict()
    for _ in range(15):
        early.append(values(optimizer))
        optimizer.step()
    optimizer.load_state_dict(state)
    for expected in early:
        assert values(optimizer) == expected
        optimizer.step()


def test_two_optimizers_of_one_factory_are_at_positions_of_their_own():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule={"type": "ExponentialLR", "gamma": 0.5})
    ahead, behind = (factory.build([parameter()]) for _ in range(2))
    for _ in range(3):
        ahead.step()
    behind.step()
    ahead.step()
    assert (values(ahead)[0], values(behind)[0]) == (1e-3 * 0.5**4, 1e-3 * 0.5)


def test_groups_keep_their_ratio():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        lr=1e-2, schedule={"type": "CosineAnnealingLR", "T_max": 9, "eta_min": 1e-4}
    )
    optimizer = factory.build([{"params": [parameter()]}, {"params": [parameter()], "lr": 1e-3}])
    for _ in range(12):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10, rel=1e-12)
        optimizer.step()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"type": "StepLR"}, "step_size"),
        ({"type": "StepLR", "step_size": 0}, r"step_size\n.*greater than or equal to 1"),
        ({"type": "StepLR", "step_size": 3, "gama": 0.1}, "did you mean 'gamma'"),
        ({"type": "CosineAnnealingLR", "T_max": 0}, r"T_max\n.*greater than or equal to 1"),
        ({"type": "CosineAnnealingWarmRestarts", "T_0": -1}, r"T_0\n.*greater than or equal to 1"),
        ({"type": "CosineAnnealingWarmRestarts", "T_0": 1, "T_mult": 0}, "CosineAnnealingWarmRestarts refuses these"),
        ({"type": "LambdaLR", "lr_lambda": "sample_functions.missing"}, "sample_functions has no missing"),
        ({"type": "LambdaLR", "lr_lambda": "sample_functions.NOT_A_FUNCTION"}, "is a int, not a function"),
        ({"type": "LambdaLR", "lr_lambda": lambda k: 1.0}, "has no path"),
        (
            {"type": "SequentialLR", "schedulers": [{"type": "LinearLR"}], "milestones": [3]},
            "one less than the schedulers",
        ),
        ({"type": "SequentialLR", "schedulers": [{"type": "cosine"}], "milestones": []}, "`sequence` and `chain` take"),
        ({"type": "ChainedScheduler", "schedulers": []}, "ChainedScheduler refuses"),
        ({"type": "ConstantLR", "factor": 2.0}, "between 0 and 1"),
        ({"type": "CyclicLR", "base_lr": 1e-4, "max_lr": 1e-2, "mode": "square"}, "triangular"),
        ({"type": "MultiStepLR", "milestones": "soon"}, "milestones"),
        ({"type": "ExponentialLR", "gamma": True}, "not true or false"),
        ({"type": "StepLR", "step_size": 3, "gamma": -0.1}, r"gamma\n.*greater than 0"),
        ({"type": "CosineAnnealingLR", "T_max": 3, "eta_min": -1.0}, r"eta_min\n.*greater than or equal to 0"),
        ({"type": "SteppLR", "step_size": 3}, "did you mean 'StepLR'"),
    ],
)
def test_impossible_values_are_refused_at_construction(schedule, message):
    with pytest.raises(ValidationError, match=message):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule=schedule)


def test_names_are_found_without_regard_to_case():
    assert SCHEDULE_REGISTRY["steplr"] is SCHEDULE_REGISTRY["StepLR"]
    assert SCHEDULE_REGISTRY["StepLR"](step_size=3, gamma=0.5).summary() == "StepLR, step_size 3, gamma 0.5"
