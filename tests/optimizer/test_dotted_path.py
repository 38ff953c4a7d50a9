"""Optimizers and schedulers of other libraries, by dotted path."""

import copy
import json
import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    SCHEDULE_REGISTRY,
    ConformanceError,
    Horizon,
    NamedState,
    UnknownKeyError,
    check_factory,
    load_named_state,
    named_state,
)

heavyball = pytest.importorskip("heavyball", reason="needs heavyball")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer")

LION = OPTIMIZER_BUILDER_REGISTRY["pytorch_optimizer.Lion"]


class WithoutLR(torch.optim.SGD):
    """Has no argument that a schedule could move."""

    def __init__(self, params) -> None:
        super().__init__(params, lr=0.1)


class NameTaken(torch.optim.SGD):
    """Has an argument with the name of a field of every factory."""

    def __init__(self, params, lr=0.1, schedule=None) -> None:
        super().__init__(params, lr=lr)


def backward(module, step):
    module(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()


@pytest.mark.parametrize(
    ("path", "cls"), [("pytorch_optimizer.Lion", pytorch_optimizer.Lion), ("heavyball.SGD", heavyball.SGD)]
)
@pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")
def test_is_the_class_with_its_own_defaults_and_our_schedule(path, cls):
    ours = nn.Linear(4, 2)
    theirs = copy.deepcopy(ours)
    schedule = {"type": "linear", "num_training_steps": 10}
    optimizer = OPTIMIZER_BUILDER_REGISTRY[path](lr=1e-2, schedule=schedule).build(ours)
    plain = cls(theirs.parameters(), lr=1e-2)
    assert isinstance(optimizer, cls)
    for step in range(12):
        plain.param_groups[0]["lr"] = 1e-2 * max(0.0, 1 - step / 10)
        backward(ours, step)
        backward(theirs, step)
        assert optimizer.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
        optimizer.step()
        plain.step()
        optimizer.zero_grad()
        plain.zero_grad()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_nested_state_goes_through_json_and_tensors():
    module = nn.Linear(4, 2)
    factory = OPTIMIZER_BUILDER_REGISTRY["pytorch_optimizer.SOAP"]()  # keeps lists of matrices
    optimizer = factory.build(module)
    for step in range(5):
        backward(module, step)
        optimizer.step()
        optimizer.zero_grad()
    state = named_state(optimizer)
    assert "weight/GG/0" in state.tensors
    saved = NamedState({path: t.clone() for path, t in state.tensors.items()}, json.loads(json.dumps(state.values)))
    resumed = copy.deepcopy(module)
    second = factory.build(resumed)
    load_named_state(second, saved)
    for step in range(5, 15):
        for one, its in ((module, optimizer), (resumed, second)):
            backward(one, step)
            its.step()
            its.zero_grad()
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lrr": 1e-3}, "did you mean 'lr'"),
        ({"lr": "fast"}, "lr"),
        ({"lr": -1.0}, r"lr\n.*must be"),
        ({"betas": [0.9]}, "betas"),
        ({"weight_decouple": 3}, "weight_decouple"),
        ({"schedule": {"type": "StepLR"}}, "step_size"),
    ],
)
def test_its_signature_is_checked(params, message):
    with pytest.raises(ValidationError, match=message):
        LION(**params)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pytorch_optimizer.Loin", "pytorch_optimizer has no Loin; did you mean 'Lion'"),
        ("no_such_package.Lion", "there is no module 'no_such_package'"),
        ("torch.nn.Linear", "is not a OptimizerFactory"),
        ("test_dotted_path.WithoutLR", "no argument lr"),
        ("test_dotted_path.NameTaken", "argument 'schedule' has the name of a field"),
    ],
)
def test_what_cannot_be_used_is_said_to_be_so(path, message):
    with pytest.raises(UnknownKeyError, match=message):
        OPTIMIZER_BUILDER_REGISTRY[path]


def test_a_scheduler_by_path_runs_as_its_own_object():
    schedule = {"type": "sample_schedulers.Halving", "every": 3}
    factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=1.0, schedule=schedule)
    assert factory.model_dump()["schedule"]["type"] == "sample_schedulers.Halving"
    assert type(factory)(**factory.model_dump(mode="json")) == factory
    assert pickle.loads(pickle.dumps(factory)) == factory
    optimizer = factory.build(nn.Linear(2, 2), horizon=Horizon(10))
    lrs = []
    for _ in range(9):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert lrs == [1.0] * 3 + [0.5] * 3 + [0.25] * 3
    with pytest.raises(ValidationError, match="every must be positive"):
        SCHEDULE_REGISTRY["sample_schedulers.Halving"](every=0)


class Capped(torch.optim.SGD):
    """Leaves out what its annotations say, and calls its parameters something else."""

    def __init__(self, weights, lr: float = 0.1, cap: float = None, shape: tuple[int, int] = None, mode: str = None):  # noqa: RUF013 as libraries have it
        self.cap = cap
        super().__init__(weights, lr=lr)


class WithMean(torch.optim.Optimizer):
    """Momentum; its closure runs where no gradient can be taken, as in several libraries."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["mean"] = 0.9 * self.state[p].get("mean", torch.zeros_like(p)) + p.grad
                    p.sub_(self.state[p]["mean"], alpha=group["lr"])
        return loss


class ByName(WithMean):
    """Takes named parameters, and makes a group for each, as Adam_mini does."""

    def __init__(self, named_parameters, lr: float = 0.1, sharded: bool = None):  # noqa: RUF013 likewise
        groups = [{"params": p, "name": name} for name, p in named_parameters]
        super().__init__(groups, {"lr": lr})


class WithoutNumber(torch.optim.SGD):
    def __init__(self, params, lr=None):
        super().__init__(params, lr=lr or 0.1)


class OfModel(torch.optim.SGD):
    def __init__(self, model, lr: float = 0.1):
        super().__init__(model.parameters(), lr=lr)


@pytest.mark.parametrize("name", ["Capped", "ByName"])
@pytest.mark.parametrize("schedule", [{"type": "constant"}, {"type": "cosine"}])
def test_none_under_another_annotation_and_another_first_argument_work(name, schedule):
    path = f"{__name__}.{name}"
    factory = OPTIMIZER_BUILDER_REGISTRY[path](schedule=schedule)
    again = OPTIMIZER_BUILDER_REGISTRY[path](**factory.model_dump())
    assert again == factory == pickle.loads(pickle.dumps(factory))
    assert OPTIMIZER_BUILDER_REGISTRY[path](**json.loads(factory.model_dump_json())) == factory
    assert factory.resolved(Horizon(10)).lr == 0.1
    module = nn.Linear(3, 2)
    optimizer = again.build(module, horizon=Horizon(10))
    assert sorted(name for group in optimizer.param_groups for name in group["param_names"]) == ["bias", "weight"]
    for _ in range(2):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    fresh = again.build(module, horizon=Horizon(10))
    load_named_state(fresh, named_state(optimizer))
    assert fresh.scheduler.last_epoch == 2


def test_given_values_are_checked_against_the_annotation():
    with pytest.raises(ValidationError, match="cap"):
        OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.Capped"](cap="high")
    optimizer = OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.Capped"](cap=2, shape=[1, 2]).build(nn.Linear(2, 2))
    assert optimizer.cap == 2.0


def test_a_conforming_class_by_another_name_of_its_parameters_conforms():
    check_factory(OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.Capped"]())


def test_what_needs_names_is_told_so():
    factory = OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.ByName"]
    with pytest.raises(ValueError, match="takes named parameters and no groups: build it from a module"):
        factory().build(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="takes named parameters and no groups"):
        factory(param_groups=[{"match": "bias", "lr": 0.5}]).build(nn.Linear(2, 2))


def test_an_lr_that_a_class_leaves_out_is_asked_for():
    with pytest.raises(ValidationError, match=r"lr\n +give a number"):
        OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.WithoutNumber"]()
    assert OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.WithoutNumber"](lr=0.3).build(
        nn.Linear(2, 2)
    ).scheduler.base_lrs == [0.3]


def test_a_class_of_a_model_is_refused_for_that():
    with pytest.raises(UnknownKeyError, match="it takes a model"):
        OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.OfModel"]


class WithoutClosures(WithMean):
    """Calls its closure where no gradient can be taken, as several libraries do."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, {"lr": lr})


def test_a_class_without_closures_breaks_that_promise_alone():
    with pytest.raises(ConformanceError) as refused:
        check_factory(OPTIMIZER_BUILDER_REGISTRY[f"{__name__}.WithoutClosures"]())
    assert str(refused.value).startswith("closures are taken: RuntimeError")
    assert "\n" not in str(refused.value)
