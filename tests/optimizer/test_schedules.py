"""The curves, against their formulas and against the peers' own objects."""

import json
import math
import pickle
import random
import warnings

import pytest
import torch
from conftest import trace
from pydantic import ValidationError, create_model
from sample_schedules import SCHEDULES

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    SCHEDULE_REGISTRY,
    AdamWWithOneCycle,
    AdamWWithWarmupCosine,
    Horizon,
    Schedule,
    TorchSchedule,
    scheduled,
)

WARMUP_COSINE = SCHEDULE_REGISTRY["warmup_cosine_decay"]
ONE_CYCLE = SCHEDULE_REGISTRY["one_cycle"]
LEROBOT = SCHEDULE_REGISTRY["cosine_decay_with_warmup"]


def parameter():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.zeros(2)
    return p


class TestWarmupCosine:
    def test_is_exact_at_first_peak_last_and_beyond(self):
        curve = WARMUP_COSINE(peak_lr=3e-4, start_lr=1e-6, end_lr=7e-6, total_steps=1000, warmup_steps=77)
        assert curve.lr_at(0) == 1e-6
        assert curve.lr_at(77) == 3e-4
        assert curve.lr_at(999) == 7e-6
        assert curve.lr_at(1000) == curve.lr_at(10**9) == 7e-6

    def test_rises_linearly_and_falls_on_half_a_cosine(self):
        curve = WARMUP_COSINE(peak_lr=1.0, start_lr=0.2, end_lr=0.1, total_steps=101, warmup_steps=20)
        for k in range(20):
            assert curve.lr_at(k) == pytest.approx(0.2 + 0.8 * k / 20, rel=1e-14)
        for k in range(20, 101):
            expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (k - 20) / 80)) / 2
            assert curve.lr_at(k) == pytest.approx(expected, rel=1e-14)

    def test_without_warmup_starts_at_the_peak(self):
        curve = WARMUP_COSINE(peak_lr=1e-3, start_lr=1e-5, end_lr=0, total_steps=10)
        assert curve.lr_at(0) == 1e-3

    def test_a_warmup_up_to_the_last_update_ends_at_the_peak(self):
        curve = WARMUP_COSINE(peak_lr=1e-3, end_lr=1e-5, total_steps=10, warmup_steps=9)
        assert (curve.lr_at(9), curve.lr_at(10)) == (1e-3, 1e-5)

    def test_a_run_of_one_update_runs_at_the_peak(self):
        assert WARMUP_COSINE(peak_lr=1e-3, total_steps=1).lr_at(0) == 1e-3

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"peak_lr": 0}, "peak_lr"),
            ({"peak_lr": -1e-3}, "peak_lr"),
            ({"start_lr": 2e-3}, "start_lr"),
            ({"start_lr": -1e-9}, "start_lr"),
            ({"end_lr": 2e-3}, "end_lr"),
            ({"end_lr": -1e-9}, "end_lr"),
            ({"warmup_steps": 100}, "warmup_steps"),
            ({"warmup_steps": -1}, "warmup_steps"),
            ({"total_steps": 0}, "total_steps"),
        ],
    )
    @pytest.mark.parametrize("cls", [WARMUP_COSINE, OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"]])
    def test_impossible_values_are_refused_at_construction(self, cls, changed, field):
        good = {"peak_lr": 1e-3, "start_lr": 1e-5, "end_lr": 1e-5, "total_steps": 100, "warmup_steps": 10}
        cls(**good)
        with pytest.raises(ValidationError) as refused:
            cls(**{**good, **changed})
        assert refused.value.errors()[0]["loc"] == (field,)

    def test_the_bounds_themselves_are_allowed(self):
        WARMUP_COSINE(peak_lr=1e-3, start_lr=1e-3, end_lr=1e-3, total_steps=2, warmup_steps=1)

    def test_the_class_can_be_made_without_a_factory(self):
        optimizer = AdamWWithWarmupCosine([parameter()], peak_lr=1e-2, total_steps=9, warmup_steps=3, weight_decay=0.5)
        assert optimizer.param_groups[0]["weight_decay"] == 0.5
        curve = WARMUP_COSINE(peak_lr=1e-2, total_steps=9, warmup_steps=3)
        assert trace(optimizer, 12) == [curve.lr_at(k) for k in range(12)]
        with pytest.raises(ValidationError, match="warmup_steps"):
            AdamWWithWarmupCosine([parameter()], peak_lr=1e-2, total_steps=3, warmup_steps=3)


CYCLES = [
    {},
    {"pct_start": 0.1},
    {"anneal_strategy": "linear"},
    {"three_phase": True},
    {"div_factor": 10, "final_div_factor": 100},
    {"cycle_momentum": False},
    {"base_momentum": 0.8, "max_momentum": 0.9},
]


class TestOneCycle:
    @pytest.mark.parametrize("changed", CYCLES)
    def test_equals_torch_and_then_holds(self, changed):
        fields = {"max_lr": 1e-2, "total_steps": 60, **changed}
        theirs = torch.optim.AdamW([parameter()], lr=1e-4)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, **fields)
        ours = OPTIMIZER_BUILDER_REGISTRY["adamw_cosine_schedule"](**{"cycle_momentum": True, **fields}).build(
            [parameter()]
        )
        for _ in range(59):
            assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
            assert ours.param_groups[0]["betas"] == theirs.param_groups[0]["betas"]
            ours.step()
            theirs.step()
            scheduler.step()
        last = ours.param_groups[0]["lr"], ours.param_groups[0]["betas"]
        assert last == (theirs.param_groups[0]["lr"], theirs.param_groups[0]["betas"])
        for _ in range(5):
            ours.step()
            assert (ours.param_groups[0]["lr"], ours.param_groups[0]["betas"]) == last

    @pytest.mark.parametrize("seed", range(60))
    def test_equals_torch_bit_for_bit_whatever_the_options(self, seed):
        pick = random.Random(seed)
        fields = {
            "max_lr": 10 ** pick.uniform(-6, 1),
            "total_steps": pick.choice([1, 2, 3, 10, 64, 237]),
            "pct_start": pick.choice([0.0, 1.0, 0.3, pick.random()]),
            "anneal_strategy": pick.choice(["cos", "linear"]),
            "div_factor": pick.uniform(0.5, 50.0),
            "final_div_factor": 10 ** pick.uniform(-1, 6),
            "three_phase": pick.random() < 0.5,
            "base_momentum": pick.random(),
            "max_momentum": pick.random(),
        }
        if fields["pct_start"] * fields["total_steps"] == 1.0:
            fields["pct_start"] = 0.9
        theirs = torch.optim.SGD([parameter()], lr=0.1, momentum=0.5)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, **fields)
        theirs.step()
        curve = ONE_CYCLE(**fields)
        for update in range(fields["total_steps"]):
            group = theirs.param_groups[0]
            assert (curve.lr_at(update), curve.momentum_at(update)) == (group["lr"], group["momentum"])
            if update < fields["total_steps"] - 1:
                scheduler.step()

    def test_any_position_in_any_order_gives_the_same(self):
        one, other = (ONE_CYCLE(max_lr=1e-2, total_steps=100) for _ in range(2))
        forward = [(one.lr_at(k), one.momentum_at(k)) for k in range(110)]
        backward = [(other.lr_at(k), other.momentum_at(k)) for k in reversed(range(110))]
        assert forward == backward[::-1]

    def test_length_from_epochs_or_the_horizon(self):
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw_cosine_schedule"]
        assert factory(max_lr=1e-2, epochs=3, steps_per_epoch=7).resolved().total_steps == 21
        assert factory(max_lr=1e-2, epochs=3).resolved(Horizon(500, 9)).total_steps == 27
        assert factory(max_lr=1e-2).resolved(Horizon(500, 9)).total_steps == 500
        with pytest.raises(ValidationError, match="steps_per_epoch"):
            factory(max_lr=1e-2, epochs=3).build([parameter()])
        with pytest.raises(ValidationError, match="not both"):
            factory(max_lr=1e-2, epochs=3, total_steps=5)

    def test_a_rise_that_torch_would_divide_by_zero_on_is_refused(self):
        with pytest.raises(ValidationError, match="pct_start"):
            ONE_CYCLE(max_lr=1e-2, total_steps=10, pct_start=0.1)

    @pytest.mark.parametrize("total", [1, 2, 3, 5, 17])
    @pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
    def test_every_other_cycle_can_be_run(self, total, share):
        for three_phase in (False, True):
            try:
                curve = ONE_CYCLE(max_lr=1e-2, total_steps=total, pct_start=share, three_phase=three_phase)
            except ValidationError:
                assert share * total == 1.0
                continue
            assert all(0 <= curve.lr_at(k) <= 1e-2 * (1 + 1e-12) for k in range(total + 3))

    def test_momentum_cycles_in_any_optimizer_that_has_one(self):
        cycle = ONE_CYCLE(max_lr=0.1, total_steps=10)
        sgd = OPTIMIZER_BUILDER_REGISTRY["sgd"](momentum=0.9, schedule=cycle).build([parameter()])
        assert sgd.param_groups[0]["momentum"] == 0.95
        with pytest.raises(ValueError, match="neither `betas` nor `momentum`"):
            scheduled(torch.optim.Adagrad)([parameter()]).embed(cycle)

    def test_the_class_can_be_made_without_a_factory(self):
        optimizer = AdamWWithOneCycle([parameter()], max_lr=1e-2, total_steps=20, pct_start=0.5, weight_decay=0.5)
        assert optimizer.param_groups[0]["weight_decay"] == 0.5
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        curve = ONE_CYCLE(max_lr=1e-2, total_steps=20, pct_start=0.5)
        assert trace(optimizer, 22) == [curve.lr_at(k) for k in range(22)]


class TestLeRobotCosine:
    def peer(self, warmup, decay, peak_lr, decay_lr, training):
        """LeRobot's formula, written from its source (lerobot/optim/schedulers.py)."""
        if training < decay:
            warmup, decay = int(warmup * (training / decay)), training
        floor, alpha = 1 / (warmup + 1), decay_lr / peak_lr

        def factor(k):
            if k < warmup:
                return floor if k <= 0 else (floor - 1) * (1 - k / warmup) + 1
            return (1 - alpha) * (1 + math.cos(math.pi * min(k, decay) / decay)) / 2 + alpha

        return factor

    @pytest.mark.parametrize("training", [100, 300, 1000])
    def test_equals_the_two_object_pattern(self, training):
        fields = {"num_warmup_steps": 50, "num_decay_steps": 300, "peak_lr": 1e-3, "decay_lr": 1e-5}
        theirs = torch.optim.AdamW([parameter()], lr=2e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(theirs, self.peer(50, 300, 1e-3, 1e-5, training))
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=2e-3, schedule={"type": "cosine_decay_with_warmup", **fields})
        ours = factory.build([parameter()], horizon=Horizon(training))
        for _ in range(400):
            assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
            ours.step()
            theirs.step()
            scheduler.step()


def test_total_steps_comes_from_the_horizon_or_is_asked_for():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](peak_lr=1e-3, warmup_steps=5)
    assert factory.resolved(Horizon(40)).total_steps == 40
    with pytest.raises(ValidationError, match="total_steps"):
        factory.build([parameter()])
    with pytest.raises(ValidationError, match="warmup_steps"):
        factory.build([parameter()], horizon=Horizon(5))


def test_a_schedule_is_read_in_any_form():
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"]
    curve = ONE_CYCLE(max_lr=1e-2, total_steps=50)
    spellings = [curve, {"type": "OneCycleLR", "max_lr": 1e-2, "total_steps": 50}, curve.config()]
    assert len({factory(schedule=spelling).schedule for spelling in spellings}) == 1
    for bad, message in [
        ({"type": "one_cylce", "max_lr": 1}, "did you mean 'one_cycle'"),
        ({"type": "one_cycle", "max_lrs": 1}, "did you mean 'max_lr'"),
        ({"max_lr": 1}, "type"),
        ("one_cycle", "must be a mapping"),
    ]:
        with pytest.raises(ValidationError, match=message):
            factory(schedule=bad)


PURE = [key for key, cls in SCHEDULE_REGISTRY.items() if not issubclass(cls, TorchSchedule)]
ENDLESS = {"step", "inverse_sqrt", "exponential_decay", "inverse_time_decay", "cosine_decay_restarts"}


@pytest.mark.parametrize("key", PURE)
def test_a_pure_schedule_goes_on_for_ever_without_a_warning(key):
    curve = SCHEDULE_REGISTRY[key](**SCHEDULES[key]).resolved(Horizon(30, 10)).bind(1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = [curve.lr_at(k) for k in [*range(40), 10**6, 10**12]]
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert key in ENDLESS or values[31:] == [values[30]] * 11


@pytest.mark.parametrize("key", SCHEDULES)
def test_every_schedule_has_a_line_for_the_plan(key):
    schedule = SCHEDULE_REGISTRY[key](**SCHEDULES[key]).resolved(Horizon(30, 10))
    for line in (schedule.summary(), schedule.bind(1e-2).schedule.summary()):
        assert line
        assert "None" not in line
        assert "\n" not in line


@pytest.mark.parametrize("key", SCHEDULES)
def test_every_schedule_is_built_again_from_its_config(key):
    schedule = SCHEDULE_REGISTRY[key](**SCHEDULES[key])
    for one in (schedule, schedule.resolved(Horizon(30, 10)), schedule.resolved(Horizon(30, 10)).bind(1e-2).schedule):
        config = json.loads(json.dumps(one.config()))
        again = OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule=config).schedule
        assert again == one
        assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("key", SCHEDULES)
def test_every_parameter_of_every_schedule_is_described(key):
    for name, field in SCHEDULE_REGISTRY[key].model_json_schema()["properties"].items():
        assert field.get("description"), name
        assert "See torch" not in field["description"], name


@pytest.mark.parametrize("key", SCHEDULES)
def test_a_group_keeps_its_ratio_under_every_schedule(key):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, schedule={"type": key, **SCHEDULES[key]})
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 1e-3}]
    optimizer = factory.build(groups, horizon=Horizon(30, 10))
    for step in range(35):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10, rel=1e-12)
        optimizer.step()
        optimizer.report_metric("val_loss", 1.0 + step)


ENDLESS = {
    "StepLR", "ExponentialLR", "CosineAnnealingWarmRestarts", "CyclicLR", "LambdaLR", "MultiplicativeLR",
    "ChainedScheduler", "inverse_sqrt", "step", "exponential_decay", "inverse_time_decay", "cosine_decay_restarts",
}  # fmt: skip
"""Those that say nothing of an end, or go on for ever."""


@pytest.mark.parametrize("key", sorted(SCHEDULES.keys() - ENDLESS))
def test_beyond_its_end_the_last_value_holds(key):
    factory = OPTIMIZER_BUILDER_REGISTRY["sgd"](momentum=0.9, schedule={"type": key, **SCHEDULES[key]})
    optimizer = factory.build([parameter()], horizon=Horizon(30, 10))
    lrs = trace(optimizer, 90)
    assert lrs[30:] == [lrs[30]] * 60


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")  # pydantic's, about the same
@pytest.mark.parametrize("name", ["step_length", "bind", "config"])
def test_a_field_with_the_name_of_a_method_is_rejected(name):
    with pytest.raises(ValueError, match=rf"Steps\.{name}: .*method of Schedule"):
        create_model("Steps", __base__=Schedule, **{name: (int, 1)})
