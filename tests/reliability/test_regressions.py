"""Mistakes that were made once: each of these failed."""

import copy
import pickle
import types

import pytest
import torch
from conftest import needs
from pydantic import ValidationError
from torch import nn

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    SCHEDULE_REGISTRY,
    CautiousOptimizer,
    Horizon,
    NamedState,
    load_named_state,
    make_optimizer_and_scheduler,
    named_state,
)
from optimizer.analysis.lint import curve_warnings


def built(horizon=None, key="adamw", module=None, **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module or nn.Linear(4, 4), horizon=horizon)


def lr(optimizer):
    return optimizer.param_groups[0]["lr"]


def test_a_metric_reaches_only_the_part_that_waits_for_it():
    parts = [{"type": "plateau", "monitor": name, "patience": 0, "factor": 0.5} for name in ("a", "b")]
    optimizer = built(lr=1.0, schedule={"type": "sequence", "schedules": parts, "milestones": [5]})
    for _ in range(3):
        optimizer.report_metric("b", 1.0)
    assert lr(optimizer) == 1.0


@pytest.mark.parametrize("pace", [{"interval": "epoch"}, {"frequency": 5}])
def test_a_cycle_of_epochs_is_as_long_as_they_are(pace):
    schedule = SCHEDULE_REGISTRY["one_cycle"](max_lr=1.0, epochs=10, **pace).resolved(Horizon(100, 10))
    assert schedule.total_steps * schedule.step_length() == 100


@pytest.mark.parametrize(
    "schedule", [{"type": "warmup_cosine_decay", "peak_lr": 1.0}, {"type": "one_cycle", "max_lr": 1.0}]
)
def test_an_lr_of_0_has_no_share_in_a_curve(schedule):
    with pytest.raises(ValueError, match="lr: must be > 0 under"):
        built(Horizon(10), lr=0.0, schedule=schedule)


def test_an_lr_of_0_can_have_a_minimum_of_0():
    assert lr(built(Horizon(10), lr=0.0, schedule={"type": "cosine_with_min_lr", "min_lr": 0.0})) == 0.0


PLATEAU = {"type": "plateau", "patience": 0}
METRIC_DRIVEN = [
    PLATEAU,
    {**PLATEAU, "frequency": 2},
    {"type": "greedy", "min_lr": 1e-4},
    {"type": "sequence", "schedules": [PLATEAU, {"type": "constant"}], "milestones": [9]},
]


@pytest.mark.filterwarnings("ignore:the position is loaded, but the schedule is another:UserWarning")
@pytest.mark.parametrize("saved", METRIC_DRIVEN)
@pytest.mark.parametrize("own", METRIC_DRIVEN)
def test_the_state_of_another_metric_schedule_starts_anew(saved, own):
    if saved is own:
        return
    first, second = built(Horizon(20), lr=1.0, schedule=saved), built(Horizon(20), lr=1.0, schedule=own)
    for one in (first, second):
        one.step()
        for _ in range(4):
            one.report_metric("val_loss", 1.0)
    with pytest.warns(UserWarning, match="metrics so far: they start from scratch"):
        second.load_state_dict(first.state_dict())
    assert lr(second) == 1.0
    assert second.scheduler.last_epoch == 1


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"type": "SWALR", "swa_lr": -1.0}, "swa_lr"),
        ({"type": "ExponentialLR", "gamma": -1.0}, "gamma"),
        ({"type": "PolynomialLR", "total_iters": 5, "power": -1}, "power"),
        ({"type": "piecewise_constant", "step_rules": "1:2,nan:4,1"}, "step_rules"),
        ({"type": "piecewise_constant", "step_rules": "1:2,inf"}, "step_rules"),
        (
            {"type": "SequentialLR", "schedulers": [{"type": "ConstantLR", "initial_lr": 7.0}], "milestones": []},
            "initial_lr",
        ),
        ({"type": "SequentialLR", "schedulers": [{"type": "ConstantLR"}] * 3, "milestones": [30, 20]}, "must rise"),
        ({"type": "plateau", "min_lr": 1.0}, "schedule.min_lr"),
        ({"type": "chain", "schedules": [{"type": "polynomial", "lr_end": 1.0}]}, r"schedule.schedules.0.lr_end"),
        (
            {
                "type": "SequentialLR",
                "interval": "epoch",
                "schedulers": [{"type": "LinearLR", "total_iters": "20%"}],
                "milestones": [],
            },
            "lengths inside must be plain numbers",
        ),
    ],
)
def test_a_value_that_would_go_wrong_later_is_refused(schedule, message):
    with pytest.raises(ValidationError, match=message):
        built(Horizon(100, 10), schedule=schedule)


def test_a_function_that_gives_no_lr_is_refused():
    with pytest.raises(ValueError, match="LambdaLR gives the lr nan for update 0"):
        built(lr=1.0, schedule={"type": "LambdaLR", "lr_lambda": "sample_functions.not_a_number"})


@pytest.mark.parametrize("option", ["beta1", "weight_decay"])
def test_an_options_schedule_stays_within_its_range(option):
    curve = {"type": "warmup_cosine_decay", "peak_lr": 1.5, "start_lr": 0.5, "warmup_steps": 5}
    if option == "beta1":
        with pytest.raises(ValueError, match=r"option_schedules.beta1: must be >= 0 and < 1; its schedule gives 1"):
            built(Horizon(10), option_schedules={option: curve})
    else:
        built(Horizon(10), option_schedules={option: curve})


@pytest.mark.parametrize("total_steps", [1000, 105])
def test_a_schedule_by_epochs_is_not_suspicious(total_steps):
    schedule = SCHEDULE_REGISTRY["cosine"](interval="epoch").resolved(Horizon(total_steps, total_steps // 10))
    assert curve_warnings(schedule, schedule.bind().lr_at, total_steps) == []


def test_epochs_are_as_long_as_the_schedule_says():
    fields = {"num_warmup_steps": "2ep", "interval": "epoch", "steps_per_epoch": 10}
    assert SCHEDULE_REGISTRY["cosine"](**fields).resolved(Horizon(100, 20)).num_warmup_steps == 2
    assert SCHEDULE_REGISTRY["cosine"](num_training_steps=10, **fields).resolved(None).num_warmup_steps == 2


@needs("pytorch_optimizer")
def test_a_cautious_step_leaves_out_a_decay_without_the_lr():
    params = [nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    options = {"lr": 0.01, "weight_decay": 0.1, "fixed_decay": True}
    optimizers = [
        built(key="pytorch_optimizer.Lion", module=nn.ParameterList([p]), use_cautious_optimizer=cautious, **options)
        for p, cautious in zip(params, (False, True), strict=True)
    ]
    for _ in range(3):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = -torch.ones(3, 3)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cautious_step_in_half_precision_is_no_nan_where_nothing_agrees(dtype):
    p = nn.Parameter(torch.zeros(3, dtype=dtype))
    optimizer = built(key="sgd", module=nn.ParameterList([p]), lr=1.0, momentum=0.9, use_cautious_optimizer=True)
    for gradient in (1.0, -0.1):
        p.grad = torch.full((3,), gradient, dtype=dtype)
        optimizer.step()
    assert p.tolist() == [-1.0] * 3


def test_a_scheduled_optimizer_is_made_cautious_once_and_its_copy_is_too():
    optimizer = CautiousOptimizer(built(key="sgd", lr=1.0, momentum=0.9))
    for again in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        with pytest.raises(ValueError, match="cautious already"):
            CautiousOptimizer(again)
    plain = CautiousOptimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    with pytest.raises(ValueError, match="cautious already"):
        CautiousOptimizer(plain)
    seen = []
    p = optimizer.param_groups[0]["params"][0]
    optimizer.register_step_post_hook(lambda o, *_: seen.append((lr(o), p.detach().clone())))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(seen[0][1], p)


class Recommending(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def get_optim_params(self):
        return [{"params": self.head.parameters()}, {"params": self.backbone.parameters(), "lr": 1e-5}]


def test_a_policys_own_parameter_groups_are_taken():
    optimizer, _ = make_optimizer_and_scheduler({"optimizer": {"type": "adamw", "lr": 1e-3}}, Recommending())
    lrs = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert lrs == {"head.weight": 1e-3, "head.bias": 1e-3, "backbone.weight": 1e-5, "backbone.bias": 1e-5}
    without = {"optimizer": {"type": "adamw", "lr": 1e-3}, "use_policy_training_preset": False}
    assert len(make_optimizer_and_scheduler(without, Recommending())[0].param_groups) == 1
    given = types.SimpleNamespace(optimizer=types.SimpleNamespace(type="sgd", lr=0.5), steps=10)
    assert make_optimizer_and_scheduler(given, nn.Linear(2, 2))[0].defaults["lr"] == 0.5


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"optimizer": "adamw"}, "must have a `type`"),
        ({"optimizer": {"type": 3}}, "must have a `type`"),
        ({"optimizer": {"type": "adamww"}}, "did you mean 'adamw'"),
        ({"optimizer": {"type": "adamw"}, "steps": "100"}, "whole; got '100'"),
    ],
)
def test_a_malformed_config_is_a_value_error(cfg, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer_and_scheduler(cfg, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("params", "horizon", "message"),
    [
        (None, None, "params: must be a module"),
        ({"a": nn.Parameter(torch.zeros(1))}, None, "params: must be a module"),
        ([{"lr": 1.0}], None, "has no `params`"),
        (nn.Linear(2, 2), 100, "horizon: must be a Horizon"),
    ],
)
def test_what_build_cannot_take_is_said(params, horizon, message):
    with pytest.raises(ValueError, match=message):
        OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(params, horizon=horizon)


@pytest.mark.parametrize("steps", [0, 100.5, True])
def test_a_horizon_is_a_whole_number(steps):
    with pytest.raises(ValueError, match="whole"):
        Horizon(steps)


OF_THE_LIBRARY = [
    "StableSPAM",
    "MADGRAD",
    "DAdaptLion",
    "Prodigy",
    "ADOPT",
    "AdEMAMix",
    "ScheduleFreeAdamW",
    "ROSE",
]


@needs("pytorch_optimizer")
@pytest.mark.parametrize("name", OF_THE_LIBRARY)
def test_a_librarys_state_goes_through_names_or_says_why_not(name):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    factory = OPTIMIZER_BUILDER_REGISTRY[f"pytorch_optimizer.{name}"](lr=1e-2)
    optimizer = factory.build(module)
    train = getattr(optimizer, "train", lambda: None)
    train()

    def update(one, its, step):
        one(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        its.step()
        its.zero_grad()

    for step in range(4):
        torch.manual_seed(step)
        update(module, optimizer, step)
    state = named_state(optimizer)
    twin = copy.deepcopy(module)
    second = factory.build(twin)
    getattr(second, "train", lambda: None)()
    load_named_state(
        second, NamedState({path: t.clone() for path, t in state.tensors.items()}, copy.deepcopy(state.values))
    )
    for step in range(4, 8):
        for one, its in ((module, optimizer), (twin, second)):
            torch.manual_seed(step)
            update(one, its, step)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), twin.parameters(), strict=True))


@needs("pytorch_optimizer")
def test_a_class_that_cannot_be_built_says_so_and_blames_no_option():
    factory = OPTIMIZER_BUILDER_REGISTRY["pytorch_optimizer.Muon"](lr=0.1)
    with pytest.raises(ValueError, match="`use_muon` must be set"):
        factory.build(nn.Linear(3, 3))
    assert issubclass(type(factory).optimizer_class, torch.optim.Optimizer)


def test_pytorchs_own_schedulers_by_dotted_path_are_those_by_name():
    for name in ("OneCycleLR", "ReduceLROnPlateau", "StepLR"):
        path = f"torch.optim.lr_scheduler.{name}"
        assert SCHEDULE_REGISTRY[path] is SCHEDULE_REGISTRY[name]


def test_each_pattern_of_a_rule_must_match():
    rules = [{"match": ["*bias", "*norms*"], "weight_decay": 0.0}]
    with pytest.raises(ValueError, match=r"param_groups.0: no parameter's name matches '\*norms\*'"):
        built(param_groups=rules)
