"""Steps of several optimizers at once of which one fails: they leave the same as steps one after the other."""

import copy

import pytest
import torch
from conftest import NO_COMPILER
from sample_together import ADAMW, COMPILED, KINDS, MIXED, assert_equal, built, one_by_one, plain

from optimizer import Schedule, step_together


@pytest.mark.parametrize("params", KINDS, ids=["fused", "compiled"])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_error_leaves_what_steps_one_after_the_other_would_have_left(broken, params):
    results = []
    for step in (one_by_one, step_together):
        optimizers, parameters = built([("adamw", params)] * 3)
        for _ in range(3):
            for p in (p for each in parameters for p in each):
                p.grad = torch.ones_like(p)
            step(optimizers)
        optimizers[broken].state[parameters[broken][1]]["exp_avg"].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="freed or resized"):
            step(optimizers)
        results.append((parameters, [copy.copy(o.scheduler.last_epoch) for o in optimizers]))
    assert_equal(*results)


@pytest.mark.parametrize(
    "specs",
    [
        [("adamw", ADAMW)] * 3,
        pytest.param([("adamw", COMPILED)] * 3, marks=NO_COMPILER),
        pytest.param([("schedule_free_radam", {"lr": 0.1, "implementation": "compiled"})] * 3, marks=NO_COMPILER),
        pytest.param([("adamw", COMPILED), MIXED[0], MIXED[8]], marks=NO_COMPILER),
    ],
    ids=["fused", "compiled", "schedule-free", "mixed"],
)
@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize(
    "numbers",
    [{"eps": None}, {"weight_decay": "much"}, {"betas": 0.9}, {"betas": (0.9, None)}, {"eps": 1 << 2000}],
    ids=["eps", "weight_decay", "betas", "beta2", "huge"],
)
def test_invalid_numbers_leave_what_steps_one_after_the_other_would_have_left(numbers, broken, specs):
    results = []
    for step in (one_by_one, step_together):
        optimizers, parameters = built(specs)
        group = optimizers[broken].param_groups[0]
        right = dict(group)
        for update in range(6):
            for p in (p for each in parameters for p in each):
                p.grad = torch.full_like(p, update - 2.5)
            if update != 4:
                step(optimizers)
                continue
            group |= numbers
            with pytest.raises((TypeError, ValueError, OverflowError)):
                step(optimizers)
            norms = [o.grad_norm for o in optimizers]
            group |= {name: right[name] for name in numbers}
        results.append((parameters, norms, [o.scheduler.last_epoch for o in optimizers]))
    assert_equal(*results)


def lose_lr(optimizer, state):
    del optimizer.param_groups[0]["lr"]


def number_as_count(optimizer, state):
    state["step"] = 3.0


def whole_number_as_count(optimizer, state):
    state["step"] = torch.tensor(3)


def number_as_flag(optimizer, state):
    optimizer.param_groups[0]["maximize"] = 0.5


@pytest.mark.parametrize("damage", [lose_lr, number_as_count, whole_number_as_count, number_as_flag])
def test_damage_leaves_what_steps_one_after_the_other_would_have_left(damage):
    results = []
    for step in (one_by_one, step_together):
        optimizers, parameters = built([("adamw", ADAMW)] * 3)
        for update in range(4):
            for p in (p for each in parameters for p in each):
                p.grad = torch.ones_like(p)
            if update < 3:
                step(optimizers)
                continue
            damage(optimizers[1], optimizers[1].state[parameters[1][0]])
            with pytest.raises((KeyError, AttributeError, RuntimeError, TypeError)) as raised:
                step(optimizers)
        results.append((parameters, [o.scheduler.last_epoch for o in optimizers], str(raised.value)))
    assert_equal(*(result[:2] for result in results))
    assert results[0][2] == results[1][2]


@NO_COMPILER
def test_an_interrupt_before_anything_moves_leaves_no_scale_behind():
    class Interrupting:
        def __float__(self):
            raise KeyboardInterrupt

    optimizers, parameters = built([("adamw", COMPILED)] * 3)
    for update in range(4):
        for p in (p for each in parameters for p in each):
            p.grad = torch.ones_like(p)
        if update < 3:
            step_together(optimizers)
    optimizers[2].param_groups[0]["eps"] = Interrupting()
    before = copy.deepcopy(parameters)
    with pytest.raises(KeyboardInterrupt):
        step_together(optimizers)
    assert [o.gradient_scale for o in optimizers] == [None] * 3
    assert_equal(before, parameters)


class Failing(Schedule):
    absolute = False

    def lr_at(self, update):
        return 1.0 if update < 5 else -1.0


class Raising(Schedule):
    absolute = False

    def lr_at(self, update):
        if update == 5:
            raise LookupError("no value")
        return 0.1


@pytest.mark.parametrize(
    ("specs", "schedule_of", "curve", "error"),
    [
        ([("adamw", ADAMW)] * 3, lambda scheduler: scheduler._lr, Failing, ValueError),
        ([MIXED[0], MIXED[-1], MIXED[0]], lambda scheduler: scheduler._others[0], Raising, LookupError),
        pytest.param(
            [("adamw", COMPILED)] * 3, lambda scheduler: scheduler._lr, Failing, ValueError, marks=NO_COMPILER
        ),
    ],
    ids=["of the lr", "of an option", "compiled"],
)
def test_a_schedule_that_fails_leaves_the_same_as_steps_one_after_the_other(specs, schedule_of, curve, error):
    results = []
    for step in (one_by_one, step_together):
        optimizers, parameters = built(specs)
        schedule_of(optimizers[1].scheduler).curve = curve().bind()
        for p in (p for each in parameters for p in each):
            p.grad = torch.ones_like(p)
        for _ in range(4):
            step(optimizers)
        with pytest.raises(error, match=r"gives the lr|no value"):
            step(optimizers)
        results.append((parameters, [o.scheduler.last_epoch for o in optimizers]))
    assert_equal(*results)


@NO_COMPILER
def test_a_schedule_free_optimizer_in_eval_mode_raises_as_in_its_own_step():
    specs = [("schedule_free_radam", {"lr": 0.1, "implementation": "compiled"})] * 3
    results = []
    for step in (one_by_one, step_together):
        optimizers, parameters = built(specs)
        for update in range(4):
            for p in (p for each in parameters for p in each):
                p.grad = torch.ones_like(p)
            if update == 3:
                optimizers[1].eval()
                with pytest.raises(RuntimeError, match="in eval mode"):
                    step(optimizers)
            else:
                step(optimizers)
        results.append((parameters, [plain(o.state_dict()) for o in optimizers]))
    assert_equal(*results)
