"""PyTorch's schedulers of schedulers in any nesting, against a twin that asks each inner curve by itself."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon
from optimizer.schedules.torch_leaps import CosineAnnealingThenHold

LR, LENGTH = 0.3, 90


def leaf(key, **options):
    return {"type": key, **options}


def in_turn(milestones, *schedulers):
    return {"type": "SequentialLR", "schedulers": list(schedulers), "milestones": milestones}


def chained(*schedulers):
    return {"type": "ChainedScheduler", "schedulers": list(schedulers)}


HALF = leaf("ConstantLR", factor=0.5, total_iters=4)
FALL = leaf("ExponentialLR", gamma=0.9)
STEPS = leaf("StepLR", step_size=5, gamma=0.5)
RISE = leaf("LinearLR", start_factor=0.25, total_iters=8)
WAVE = leaf("CosineAnnealingLR", T_max=20, eta_min=0.01)
AGAIN = leaf("CosineAnnealingWarmRestarts", T_0=4, T_mult=2, eta_min=0.02)
FUNCTION = leaf("LambdaLR", lr_lambda="sample_functions.falling")
PRODUCT = leaf("MultiplicativeLR", lr_lambda="sample_functions.shrinking")
POWER = leaf("PolynomialLR", total_iters=30, power=2.0)
INNER = in_turn([3], HALF, FALL)
DEEP = in_turn([10, 30], in_turn([4], RISE, in_turn([3], HALF, STEPS)), chained(HALF, FALL), in_turn([20], WAVE, POWER))

NESTINGS = {
    "first and only": in_turn([], INNER),
    "first": in_turn([12], INNER, POWER),
    "second": in_turn([5], WAVE, INNER),
    "last of three": in_turn([5, 25], FALL, STEPS, INNER),
    "chain first": in_turn([15], chained(HALF, FALL), RISE),
    "chain second": in_turn([15], RISE, chained(HALF, FALL)),
    "four deep": DEEP,
    "depth in second place": in_turn([7], FUNCTION, DEEP),
    "restarts inside": in_turn([6], in_turn([2], RISE, AGAIN), in_turn([9], AGAIN, FALL)),
    "functions inside": in_turn([20], in_turn([8], FUNCTION, FALL), chained(PRODUCT, STEPS)),
    "chain around a sequence": chained(in_turn([10], RISE, STEPS), FALL),
    "chain around a sequence, second": chained(FALL, in_turn([10], RISE, AGAIN)),
    "chain around a chain around a sequence": chained(HALF, chained(FALL, in_turn([9, 20], RISE, STEPS, POWER))),
    "a function beside a sequence": chained(in_turn([10], RISE, STEPS), FUNCTION),
    "sequence around a chain around a sequence": in_turn([13], STEPS, chained(INNER, STEPS)),
}


def alone(schedule):
    """Return the lrs of one of PyTorch's schedulers that holds no other, from PyTorch itself."""
    options = {name: value for name, value in schedule.items() if name != "type"}
    if "lr_lambda" in options:
        import sample_functions

        options["lr_lambda"] = getattr(sample_functions, options["lr_lambda"].split(".")[1])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    cls = CosineAnnealingThenHold if schedule["type"] == "CosineAnnealingLR" else None
    scheduler = (cls or getattr(lr_scheduler, schedule["type"]))(optimizer, **options)
    optimizer.step()
    lrs = []
    for _ in range(LENGTH):
        lrs.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return lrs


def twin(schedule):
    """Return the lrs as the words have it: in turn, each from its own beginning; or the product of factors."""
    if schedule["type"] == "SequentialLR":
        starts = [0, *schedule["milestones"]]
        ends = [*schedule["milestones"], LENGTH]
        parts = zip(schedule["schedulers"], starts, ends, strict=True)
        return list(itertools.chain(*(twin(part)[: end - start] for part, start, end in parts)))
    if schedule["type"] == "ChainedScheduler":
        lrs = [LR] * LENGTH
        for part in schedule["schedulers"]:
            lrs = [lr * factor / LR for lr, factor in zip(lrs, twin(part), strict=True)]
        return lrs
    return alone(schedule)


def built(schedule, key="sgd", **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](lr=LR, schedule=schedule, **params).build(
        [torch.nn.Parameter(torch.zeros(1))], horizon=Horizon(LENGTH, 10)
    )


def trace(optimizer, length=LENGTH):
    lrs = []
    for _ in range(length):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return lrs


@pytest.mark.parametrize("name", NESTINGS)
def test_each_nesting_gives_what_the_inner_curves_give(name):
    assert trace(built(NESTINGS[name])) == pytest.approx(twin(NESTINGS[name]), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", NESTINGS)
def test_each_nesting_is_right_at_any_position(name):
    straight = trace(built(NESTINGS[name]))
    for position in (0, 9, 10, 31, 89, 12):
        optimizer = built(NESTINGS[name])
        optimizer.load_state_dict({**optimizer.state_dict(), "scheduler": {"last_epoch": position}})
        assert optimizer.param_groups[0]["lr"] == straight[position]


@pytest.mark.parametrize("pace", [{"frequency": 3}, {"interval": "epoch"}])
def test_a_nesting_moves_at_the_pace_outside(pace):
    updates = 3 if "frequency" in pace else 10
    expected = [lr for lr in twin(DEEP) for _ in range(updates)]
    assert trace(built({**DEEP, **pace})) == pytest.approx(expected[:LENGTH], rel=1e-12, abs=1e-15)


def test_a_nesting_moves_the_momentum():
    cycle = leaf("CyclicLR", base_lr=0.1, max_lr=0.3, step_size_up=5)
    optimizer = built(in_turn([10], in_turn([4], HALF, cycle), FALL), momentum=0.5)
    momenta = []
    for _ in range(20):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
    assert momenta[4:10] == pytest.approx([0.9, 0.88, 0.86, 0.84, 0.82, 0.8])
    assert momenta[10:] == [momenta[9]] * 10


@pytest.mark.parametrize("first", [FALL, in_turn([3], HALF, FALL)], ids=["flat", "nested"])
def test_what_multiplies_the_lr_goes_on_from_the_lr_that_it_finds(first):
    lrs, before = trace(built(in_turn([12], first, PRODUCT)), 30), twin(first)
    assert lrs[:12] == pytest.approx(before[:12], rel=1e-12)
    assert lrs[12:] == pytest.approx([before[11] * 0.99 ** (k + 1) for k in range(18)], rel=1e-12)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_averaging_starts_from_the_lr_that_it_finds(anneal):
    averaging = leaf("SWALR", swa_lr=0.05, anneal_epochs=6, anneal_strategy=anneal)
    nested, flat = (trace(built(in_turn([9], first, averaging)), 30) for first in (in_turn([], FALL), FALL))
    assert nested == pytest.approx(flat, rel=1e-12)
    assert nested[9] == pytest.approx(nested[8])
    assert nested[-1] == pytest.approx(0.05)


def test_several_that_go_on_follow_each_other():
    first, averaging = in_turn([3], HALF, FALL), leaf("SWALR", swa_lr=0.05, anneal_epochs=4)
    flat = trace(built(in_turn([1, 5, 9, 10], FALL, PRODUCT, averaging, PRODUCT, PRODUCT)), 30)
    nested = trace(built(in_turn([1, 5, 9, 10, 29], FALL, PRODUCT, averaging, PRODUCT, PRODUCT, first)), 30)
    assert nested[:29] == pytest.approx(flat[:29], rel=1e-12)
    assert nested[29] == twin(first)[0]


@pytest.mark.parametrize(
    ("milestones", "parts", "same"),
    [
        ([0], [HALF, FALL], FALL),
        ([0, 0], [HALF, RISE, FALL], FALL),
        ([0, 9], [HALF, RISE, FALL], in_turn([9], RISE, FALL)),
        ([9, 9], [RISE, HALF, FALL], in_turn([9], RISE, FALL)),
        ([0], [HALF, INNER], INNER),
        ([0], [INNER, FALL], FALL),
        (["0%"], [HALF, FALL], FALL),
        (["1%"], [HALF, FALL], in_turn([1], HALF, FALL)),
    ],
)
@pytest.mark.parametrize("key", ["SequentialLR", "sequence"])
def test_a_part_of_no_updates_is_left_out(key, milestones, parts, same):
    field = "schedulers" if key == "SequentialLR" else "schedules"
    optimizer = built({"type": key, field: parts, "milestones": milestones})
    assert trace(optimizer) == pytest.approx(twin(same), rel=1e-12)


def test_a_part_of_no_updates_moves_no_momentum():
    parts = [leaf("one_cycle", max_lr=1.0, total_steps=5), leaf("linear")]
    schedule = SCHEDULE_REGISTRY["sequence"](schedules=parts, milestones=[0])
    assert schedule.momentum_at(3) is None


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (in_turn([9, 5], HALF, FALL, RISE), r"must rise; got \[9, 5\]"),
        (in_turn([-1], HALF, FALL), r"milestones.0\n.*greater than or equal to 0"),
        (in_turn([], INNER, FALL), "must be one less than the schedulers; got 0 for 2"),
        (in_turn([3], INNER, {"type": "linear"}), "`sequence` and `chain` take any"),
        (in_turn([3], INNER, leaf("StepLR", step_size=0)), "step_size"),
    ],
)
def test_what_does_not_fit_together_is_refused(schedule, message):
    with pytest.raises(ValidationError, match=message):
        built(schedule)
