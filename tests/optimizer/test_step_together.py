"""Steps of several optimizers at once: the same bits as one after the other, and fewer calls."""

import copy
from itertools import pairwise

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, CautiousOptimizer, Horizon, Schedule, step_together
from optimizer.kernels import native, together

ADAMW = {"lr": 0.1, "grad_clip_norm": 0.5, "schedule": {"type": "cosine"}}
CURVE = {"peak_lr": 0.1, "warmup_steps": 2}
MIXED = [
    ("adamw", ADAMW),
    ("adamw", ADAMW | {"grad_clip_norm": 100.0, "weight_decay": 0.3}),
    ("adamw", ADAMW | {"grad_clip_norm": None, "betas": (0.5, 0.9), "no_decay": ["1"]}),
    ("adam", ADAMW | {"weight_decay": 0.1, "maximize": True}),
    ("adamw_warmup_cosine_decay", CURVE),
    ("adamw_cosine_schedule", {"max_lr": 0.1}),
    ("sgd", ADAMW | {"momentum": 0.9}),
    ("schedule_free_radam", {"lr": 0.1}),
    ("adamw", ADAMW | {"use_cautious_optimizer": True}),
    ("adamw", ADAMW | {"implementation": "single"}),
    ("adamw", ADAMW),
    ("adamw", ADAMW | {"option_schedules": {"weight_decay": {"type": "linear"}}}),
]

COMPILED = ADAMW | {"implementation": "compiled"}
MIXED_COMPILED = [
    ("adamw", COMPILED),
    ("adamw", COMPILED | {"grad_clip_norm": 100.0, "weight_decay": 0.3}),
    ("adamw", COMPILED | {"grad_clip_norm": None, "betas": (0.5, 0.9), "no_decay": ["1"]}),
    ("adam", COMPILED | {"weight_decay": 0.1, "maximize": True}),
    ("adamw", COMPILED | {"use_cautious_optimizer": True}),
    ("adamw", COMPILED | {"use_cautious_optimizer": True, "grad_clip_norm": None, "lr": 0.2}),
    ("sgd", COMPILED | {"use_cautious_optimizer": True, "momentum": 0.9}),
    ("sgd", COMPILED | {"use_cautious_optimizer": True, "momentum": 0.5, "nesterov": True}),
    ("schedule_free_radam", {"lr": 0.1, "implementation": "compiled", "grad_clip_norm": 0.5}),
    ("schedule_free_radam", {"lr": 0.2, "implementation": "compiled", "weight_decay": 0.1}),
    ("adamw", COMPILED | {"option_schedules": {"weight_decay": {"type": "linear"}}}),
    *MIXED[:2],
]
KINDS = [ADAMW, pytest.param(COMPILED, marks=NO_COMPILER)]


def built(specs, dtype=torch.float32):
    torch.manual_seed(5)
    modules = [nn.ParameterList([torch.randn(n, dtype=dtype) for n in (3, 17)]) for _ in specs]
    optimizers = [
        OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module, horizon=Horizon(20))
        for (key, params), module in zip(specs, modules, strict=True)
    ]
    for optimizer in optimizers:
        getattr(optimizer, "train", lambda: None)()
    return optimizers, [[*module.parameters()] for module in modules]


def run(step, specs, prepare=lambda optimizers, parameters, update: None, dtype=torch.float32):
    optimizers, parameters = built(specs, dtype)
    for update in range(6):
        torch.manual_seed(update)
        for p in (p for each in parameters for p in each):
            p.grad = torch.randn_like(p)
        prepare(optimizers, parameters, update)
        step(optimizers)
    norms = [getattr(optimizer, "grad_norm", None) for optimizer in optimizers]
    gradients = [p.grad for each in parameters for p in each]
    return (
        parameters,
        [plain(o.state_dict()) for o in optimizers],
        norms,
        gradients,
        [p._version for p in parameters[0]],
    )


def one_by_one(optimizers):
    for optimizer in optimizers:
        optimizer.step()


def plain(state):
    """Return numbers and tensors of a state dict."""
    groups = [
        {k: v for k, v in group.items() if isinstance(v, float | int | tuple) and k != "params"}
        for group in state["param_groups"]
    ]
    return [*state["state"].values()], groups, state["scheduler"]["last_epoch"]


def assert_equal(*runs):
    for first, second in pairwise(runs):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_steps_of_all_kinds_equal_those_one_after_the_other(dtype):
    # torch's fused SGD leaves some elements of new bfloat16 buffers as they were in memory.
    specs = [(key, params) for key, params in MIXED if dtype != torch.bfloat16 or key != "sgd"]
    assert_equal(run(one_by_one, specs, dtype=dtype), run(step_together, specs, dtype=dtype))


@NO_COMPILER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_compiled_steps_of_all_kinds_equal_those_one_after_the_other(dtype):
    specs = [(key, params) for key, params in MIXED_COMPILED if dtype != torch.bfloat16 or "free" not in key]
    assert_equal(run(one_by_one, specs, dtype=dtype), run(step_together, specs, dtype=dtype))


@NO_COMPILER
def test_each_optimizer_rounds_by_its_own_noise():
    def prepare(optimizers, parameters, update):
        parameters[0][0].grad = None  # the noise differs in the place among all parameters

    specs = [("adamw", COMPILED | {"stochastic_rounding": True})] * 3
    assert_equal(*(run(step, specs, prepare, torch.bfloat16) for step in (one_by_one, step_together)))


@NO_COMPILER
def test_equal_optimizers_take_one_compiled_call_and_one_for_their_norms(monkeypatch):
    optimizers, parameters = built([("adamw", COMPILED)] * 4)
    calls = []
    take, squares = native.take_together, native.squares
    monkeypatch.setattr(native, "take_together", lambda *args: (calls.append(len(args[0])), take(*args)))
    monkeypatch.setattr(native, "squares", lambda tensors: (calls.append(len(tensors)), squares(tensors))[1])
    for _ in range(4):
        calls.clear()
        for p in (p for each in parameters for p in each):
            p.grad = torch.ones_like(p)
        step_together(optimizers)
    assert calls == [8, 4]


@NO_COMPILER
def test_steps_have_the_scale_and_the_norm_that_were_set_before():
    def prepare(optimizers, parameters, update):
        optimizers[0].gradient_scale = torch.tensor(0.5)
        optimizers[1].known_norm = torch.tensor(10.0)
        optimizers[2].gradient_scale, optimizers[2].known_norm = torch.tensor(0.25), torch.tensor(20.0)

    seen = []

    def stepped(optimizers):
        step_together(optimizers)
        seen.append([value for o in optimizers for value in (o.gradient_scale, o.known_norm)])

    for params in (COMPILED, COMPILED | {"implementation": "fused"}):
        seen.clear()
        specs = [("adamw", params)] * 4
        assert_equal(run(one_by_one, specs, prepare), run(stepped, specs, prepare))
        assert seen == [[None] * 8] * 6


def test_equal_optimizers_take_one_fused_call(monkeypatch):
    optimizers, parameters = built([("adamw", ADAMW)] * 4)
    sizes = []
    whole = together.fused_update
    monkeypatch.setattr(together, "fused_update", lambda *args: (sizes.append(len(args[1])), whole(*args)))
    for _ in range(4):
        for p in (p for each in parameters for p in each):
            p.grad = torch.ones_like(p)
        step_together(optimizers)
    assert sizes[-1] == 8


def withhold(optimizers, parameters, update):
    parameters[update % 2][0].grad = None
    if update == 4:
        for p in parameters[1]:
            p.grad = None


def share(optimizers, parameters, update):
    if update == 0:
        optimizers[1].add_param_group({"params": [parameters[0][1]], "param_names": ["shared"]})


def share_gradients(optimizers, parameters, update):
    for mine, others in zip(*parameters[:2], strict=True):
        mine.grad = others.grad.view(others.shape)  # another object in the same memory


def list_betas(optimizers, parameters, update):  # as from JSON
    for optimizer in optimizers:
        optimizer.param_groups[0]["betas"] = [0.5, 0.9]


def make_infinite(optimizers, parameters, update):
    if update == 3:
        parameters[1][0].grad[1] = float("inf")


def double(parameters):
    parameters[1][0].grad.mul_(2)


def hook(optimizers, parameters, update):
    if update == 3:
        optimizers[1].register_step_pre_hook(lambda *_: double(parameters))


def wrap(optimizers, parameters, update):
    if update == 3:
        own = optimizers[1].step
        optimizers[1].step = lambda: (double(parameters), own())


def transpose(optimizers, parameters, update):
    if update == 3:
        parameters[1][1].grad = torch.arange(34.0)[::2]


def zero_lr(optimizers, parameters, update):  # as torch's distributed checkpoint does
    if update == 4:
        for group in optimizers[0].param_groups:
            group["lr"] = 0.0


def overflow(optimizers, parameters, update):  # as GradScaler leaves it
    for optimizer in optimizers[:2]:
        optimizer.found_inf = torch.tensor(float(update == 3))


def recount(optimizers, parameters, update):
    if update == 3:
        optimizers[1].state[parameters[1][0]]["step"].fill_(1.0)


BETWEEN = [withhold, share, share_gradients, list_betas, make_infinite, hook, wrap, transpose, zero_lr, recount]


@pytest.mark.parametrize("params", KINDS, ids=["fused", "compiled"])
@pytest.mark.parametrize("prepare", BETWEEN)
def test_what_happens_between_the_steps_is_noticed(prepare, params):
    specs = [("adamw", params)] * 3
    assert_equal(run(one_by_one, specs, prepare), run(step_together, specs, prepare))


def test_an_overflow_under_a_loss_scale_is_noticed():
    specs = [("adamw", ADAMW)] * 3
    assert_equal(run(one_by_one, specs, overflow), run(step_together, specs, overflow))


def test_plain_optimizers_and_wrappers_are_stepped_too():
    results = []
    for step in (one_by_one, step_together):
        weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizers = [torch.optim.SGD(weights[:1], 0.1), CautiousOptimizer(torch.optim.SGD(weights[1:], 0.1))]
        for weight in weights:
            weight.grad = torch.tensor([1.0, -2.0])
        step(optimizers)
        results.append(weights)
    assert_equal(*results)
    step_together([])


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


@pytest.mark.parametrize("params", KINDS, ids=["fused", "compiled"])
def test_an_optimizer_that_is_there_twice_takes_two_steps_also_without_gradients(params):
    results = []
    for step in (one_by_one, step_together):
        (optimizer,), (parameters,) = built([("adamw", params)])
        for update in range(6):
            for p in parameters:
                p.grad = torch.ones_like(p) if update < 3 else None
            step([optimizer] * 2)
        results.append((parameters, optimizer.scheduler.last_epoch, optimizer.param_groups[0]["lr"]))
    assert_equal(*results)


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
