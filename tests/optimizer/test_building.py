"""The parameters that `build` takes, and its errors for everything else."""

from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError, model_validator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from optimizer import OPTIMIZER_BUILDER_REGISTRY, AdamWWithWarmupCosineFactory, FreeScheduleFactory, Horizon


def build(params, **options):
    return OPTIMIZER_BUILDER_REGISTRY["adamw"](**options).build(params)


def weights():
    return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]


def test_adagrad_is_fused_on_the_cpu_alone():
    factory = OPTIMIZER_BUILDER_REGISTRY["adagrad"]
    assert factory().build(weights()).param_groups[0]["fused"]
    with FakeTensorMode():
        there = [nn.Parameter(torch.ones(3, device="cuda"))]
        assert not factory().build(there).param_groups[0]["fused"]
        assert OPTIMIZER_BUILDER_REGISTRY["sgd"]().build(there).param_groups[0]["fused"]
        with pytest.raises(ValueError, match="fused needs dense floating-point parameters on the CPU for Adagrad"):
            factory(implementation="fused").build(there)


WRONG = {
    "a set": (lambda: set(weights()), r"^params: a set has another order in each process.*give a list"),
    "a frozenset": (lambda: frozenset(weights()), r"^params: a frozenset has"),
    "a set in a group": (lambda: [{"params": set(weights())}], r"^parameter group 0: params: a set has another order"),
    "a number": (lambda: 5, r"^params: must be a module, parameters, .*; got a int"),
    "nothing": (lambda: None, "got a NoneType"),
    "a tensor": (lambda: weights()[0], r"got a Parameter\. Give it in a list"),
    "a dict of parameters": (lambda: dict(nn.Linear(2, 2).named_parameters()), r"got a dict\. Give its items\(\)"),
    "a text": (lambda: "backbone", r"^params: must be .*; got a str, 'backbone'\. A name goes with its parameter"),
    "modules in a list": (
        lambda: [nn.Linear(2, 2)],
        r"^params\.0: must be a parameter.*; got a Linear\. Give the module alone",
    ),
    "a module behind parameters": (lambda: [*weights(), nn.Tanh()], r"^params\.2: .*; got a Tanh"),
    "a module in a group": (
        lambda: [{"params": nn.Linear(2, 2)}],
        r"parameter group 0: params: .*; got a Linear.*named_parameters",
    ),
    "modules in a group": (
        lambda: [{"params": weights()}, {"params": [nn.ReLU()]}],
        r"^parameter group 1: params\.0: .*a ReLU",
    ),
    "names": (lambda: ["w", "b"], r"^params\.0: .*got a str, 'w'\. A name goes with its parameter"),
    "names in a group": (lambda: [{"params": ["w"]}], r"^parameter group 0: params\.0: .*got a str, 'w'"),
    "numbers": (lambda: [1.0, 2.0], r"^params\.0: .*got a float"),
    "a generator of them": (lambda: (value for value in ("a", "b")), r"^params\.0: .*'a'"),
    "names for which there is no parameter": (lambda: [("w", None)], r"^params\.0: .*got a tuple"),
    "modules with names": (lambda: nn.Sequential(nn.Linear(2, 2)).named_children(), r"^params\.0: .*got a tuple"),
    "a parameter among groups": (
        lambda: [{"params": weights()}, weights()[0]],
        r"^parameter group 1: must be a dict .*a Parameter",
    ),
    "one name twice": (
        lambda: [*nn.Linear(2, 2).named_parameters(), *nn.Linear(2, 2).named_parameters()],
        r"two parameters are called 'weight': named_parameters\(PREFIX\)",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_parameter_is_refused_in_words(what):
    given, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        build(given())


@pytest.mark.parametrize(
    "given",
    [
        lambda: iter(weights()),
        lambda: tuple(weights()),
        lambda: nn.ParameterList(weights()),
        lambda: [{"params": nn.ParameterList(weights())}],
        lambda: [{"params": weights()[0]}, {"params": (p for p in weights())}],
        lambda: dict(nn.Linear(2, 2).named_parameters()).items(),
        lambda: dict.fromkeys(weights()).keys(),
        lambda: {"a": nn.Parameter(torch.ones(2))}.values(),
    ],
)
def test_what_holds_parameters_in_an_order_is_taken(given):
    assert all(isinstance(p, nn.Parameter) for group in build(given()).param_groups for p in group["params"])


class Blocks(nn.Module):
    def __init__(self, frozen=()):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
        self.head = nn.Linear(2, 2)
        for index in frozen:
            self.blocks[index].requires_grad_(False)

    def lrs(self):
        optimizer = build(self, lr=1.0, layer_decay=0.5)
        return {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}


@pytest.mark.parametrize("frozen", [[0], [2], [1, 3], [0, 1, 2, 3]])
def test_frozen_layers_count_for_the_depth_of_the_others(frozen):
    whole, part = Blocks().lrs(), Blocks(frozen).lrs()
    assert part == {name: lr for name, lr in whole.items() if name in part}
    assert len(part) == len(whole) - 2 * len(frozen)
    assert part["stem.weight"] == 0.5**5


def test_a_frozen_head_is_a_layer_too():
    module = Blocks()
    module.head.requires_grad_(False)
    assert module.lrs()["blocks.3.weight"] == 0.5


class AtLeast50Updates(FreeScheduleFactory):
    optimizer_class: ClassVar = torch.optim.SGD
    lr: float = 0.1

    @model_validator(mode="after")
    def _check_length(self):
        if (self.schedule.num_training_steps or 50) < 50:
            self.refuse("schedule", "too short")
        return self


class WarmupCosineAtLeast50Updates(AdamWWithWarmupCosineFactory):
    @model_validator(mode="after")
    def _check_length(self):
        if (self.total_steps or 50) < 50:
            self.refuse("total_steps", "too short")
        return self


@pytest.mark.parametrize(
    "factory",
    [AtLeast50Updates(schedule={"type": "linear"}), WarmupCosineAtLeast50Updates(peak_lr=0.1, warmup_steps=1)],
    ids=lambda factory: type(factory).__name__,
)
def test_a_validator_of_a_custom_factory_checks_the_lengths_of_the_run(factory):
    factory.build(nn.Linear(2, 2), Horizon(50))
    with pytest.raises(ValidationError, match="too short"):
        factory.build(nn.Linear(2, 2), Horizon(10))
