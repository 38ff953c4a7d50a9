"""Steps of several optimizers at once: the same bits as one after the other, and fewer calls."""

import pytest
import torch
from conftest import NO_COMPILER
from sample_together import ADAMW, COMPILED, KINDS, MIXED, assert_equal, built, one_by_one, plain
from torch import nn

from optimizer import CautiousOptimizer, step_together
from optimizer.kernels import native, together

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
def test_compiled_steps_have_the_scale_and_the_norm_that_were_set_before():
    def prepare(optimizers, parameters, update):
        optimizers[0].gradient_scale = torch.tensor(0.5)
        optimizers[1].known_norm = torch.tensor(10.0)
        optimizers[2].gradient_scale, optimizers[2].known_norm = torch.tensor(0.25), torch.tensor(20.0)

    seen = []

    def stepped(optimizers):
        step_together(optimizers)
        seen.append([value for o in optimizers for value in (o.gradient_scale, o.known_norm)])

    specs = [("adamw", COMPILED)] * 4
    assert_equal(run(one_by_one, specs, prepare), run(stepped, specs, prepare))
    assert seen == [[None] * 8] * 6


def test_fused_steps_clear_the_norm_that_was_set_before():
    optimizers, parameters = built([("adamw", ADAMW)] * 2)
    for _ in range(4):
        for optimizer, own in zip(optimizers, parameters, strict=True):
            optimizer.known_norm = torch.tensor(10.0)
            for p in own:
                p.grad = torch.ones_like(p)
        step_together(optimizers)
    assert [optimizer.known_norm for optimizer in optimizers] == [None] * 2


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
