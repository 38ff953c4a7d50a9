"""`implementation: auto`: the fastest step that is right, and the next best where that cannot be had."""

import pickle
import warnings

import pytest
import torch
from conftest import NO_COMPILER
from sample_optimizers import PARAMS, built
from sample_steps import WITH_KERNELS, Contiguous, Shapes, apart, trained
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.kernels import compiled, implementation_of, limits, native_library, uncompiled_reason
from optimizer.kernels.registry import KERNELS

LIMITS = ("LEAST_ELEMENTS", "LEAST_TENSORS")
NEXT_BEST = {"adamw": "fused", "cautious adamw": "blocks", "cautious sgd": "blocks", "schedule_free_radam": "blocks"}
STEPS = dict(zip(NEXT_BEST, WITH_KERNELS, strict=True))


@pytest.fixture
def _all_are_large(monkeypatch):
    for name in LIMITS:
        monkeypatch.setattr(limits, name, 1)


@pytest.fixture
def no_compiler(monkeypatch):
    """Return a function after whose call nothing can be compiled, or nothing for parameters of a type."""
    check, failures = native_library.check_step, {}
    monkeypatch.setattr(compiled, "FAILURES", failures)

    def fail(dtype=None):
        def checked(name, of, *others):
            if dtype in (None, of):
                raise OSError("there is no compiler")
            check(name, of, *others)

        failures.clear()
        monkeypatch.setattr(native_library, "check_step", checked)

    return fail


def factory_of(name, **params):
    key, own = STEPS[name]
    return OPTIMIZER_BUILDER_REGISTRY[key](**{"lr": 0.01, "grad_clip_norm": None, **own, **params})


def step(optimizer, updates=3):
    """Take steps by gradients that are the same for equal shapes."""
    for update in range(updates):
        for group in optimizer.param_groups:
            for p in group["params"]:
                generator = torch.Generator().manual_seed(update + p.numel())
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        optimizer.step()
    return optimizer


@NO_COMPILER
@pytest.mark.parametrize("name", STEPS)
def test_auto_compiles_from_the_limit_on(name):
    limit = limits.LEAST_ELEMENTS
    for elements, shown in ((limit - 1, NEXT_BEST[name]), (limit, "compiled")):
        halves = [nn.Parameter(torch.zeros(size)) for size in (elements // 2, elements - elements // 2)]
        assert implementation_of(factory_of(name).build(halves)) == shown


def compiled_keys():
    """Return every registered key with a compiled step, with caution and without."""
    return [
        (key, row.cautious)
        for key, factory in OPTIMIZER_BUILDER_REGISTRY.items()
        for row in KERNELS
        if row.shown_as == "compiled" and issubclass(getattr(factory, "optimizer_class", object), row.classes)
    ]


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize(("key", "caution"), compiled_keys())
def test_every_key_with_a_compiled_step_equals_its_float64_twin(key, caution):
    params = {**PARAMS.get(key, {}), **({"momentum": 0.9} if key == "sgd" else {}), "use_cautious_optimizer": caution}
    modules = []
    for implementation, dtype, shown in (("auto", torch.float32, "compiled"), ("single", torch.float64, "single")):
        factory = OPTIMIZER_BUILDER_REGISTRY[key](**params, grad_clip_norm=1.5, implementation=implementation)
        modules.append(Shapes(dtype))
        optimizer = step(built(factory, modules[-1]), updates=20)
        assert implementation_of(optimizer).startswith(shown)
    assert apart(*modules) < 2e-6


def test_all_keys_of_adam_have_a_compiled_step():
    assert {key for key, caution in compiled_keys() if not caution} >= {
        *("adam", "adamw", "adamw_warmup_cosine_decay", "adamw_cosine_schedule", "xvla-adamw", "schedule_free_radam")
    }


@NO_COMPILER
def test_of_several_adams_those_of_many_tensors_are_compiled(monkeypatch):
    monkeypatch.setattr(limits, "LEAST_TENSORS", 10)
    sets = {name: [nn.Parameter(torch.ones(2)) for _ in range(count)] for name, count in (("small", 9), ("large", 10))}
    optimizers = OPTIMIZER_BUILDER_REGISTRY["multi_adam"]().build(sets, horizon=Horizon(9))
    assert {name: implementation_of(each) for name, each in optimizers.items()} == {
        "small": "fused",
        "large": "compiled",
    }


@NO_COMPILER
@pytest.mark.parametrize("name", STEPS)
def test_auto_compiles_for_many_tensors_whatever_their_size(name):
    many = [nn.Parameter(torch.zeros(1)) for _ in range(limits.LEAST_TENSORS)]
    assert implementation_of(factory_of(name).build(many[1:])) == NEXT_BEST[name]
    assert implementation_of(step(factory_of(name).build(many))) == "compiled"


@NO_COMPILER
@pytest.mark.parametrize("name", STEPS)
def test_the_choice_stays_when_the_optimizer_grows(name, monkeypatch):
    for attribute in LIMITS:
        monkeypatch.setattr(limits, attribute, 10)
    optimizer = factory_of(name).build([nn.Parameter(torch.ones(9))])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(9))]})
    assert implementation_of(step(optimizer)) == NEXT_BEST[name]


@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize("name", STEPS)
def test_without_a_compiler_the_next_best_is_taken_quietly(name, no_compiler):
    no_compiler()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = step(factory_of(name).build(Contiguous(torch.float32)))
    assert implementation_of(optimizer) == NEXT_BEST[name]
    assert uncompiled_reason(optimizer) == "there is no compiler"


@NO_COMPILER
def test_there_is_no_reason_where_nothing_failed(no_compiler):
    for params in ({}, {"implementation": "compiled"}, {"amsgrad": True}):
        assert uncompiled_reason(factory_of("adamw", **params).build([nn.Parameter(torch.ones(3))])) is None
    no_compiler()
    assert uncompiled_reason(factory_of("adamw").build([nn.Parameter(torch.ones(3))])) is None  # it is small
    assert uncompiled_reason(torch.optim.AdamW([nn.Parameter(torch.ones(3))])) is None


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize("name", STEPS)
def test_a_late_group_that_cannot_be_compiled_leaves_all_groups_to_the_next_best(name, no_compiler):
    """The step of all groups is that of an optimizer that never was compiled, bit for bit: none has moved before."""
    moved = []
    for is_compiled in (True, False):
        if not is_compiled:
            no_compiler()
        p, late = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(7, dtype=torch.float64))
        optimizer = factory_of(name, grad_clip_norm=0.5).build([p])
        assert implementation_of(optimizer) == ("compiled" if is_compiled else NEXT_BEST[name])
        no_compiler(torch.float64)
        optimizer.add_param_group({"params": [late]})
        assert implementation_of(step(optimizer)) == NEXT_BEST[name]
        moved.append([p.detach(), late.detach()])
    assert all(map(torch.equal, *moved))
    assert torch.all(moved[0][1] != 1.0)


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize("name", STEPS)
def test_an_optimizer_unpickled_without_a_compiler_goes_on_with_the_next_best(name, no_compiler):
    own, pickled = factory_of(name).build(Contiguous(torch.float32)), None
    pickled = pickle.dumps(step(own))
    no_compiler()
    copied = step(pickle.loads(pickled))
    assert implementation_of(copied) == NEXT_BEST[name]
    step(own)
    ours, theirs = ([*each.param_groups[0]["params"]] for each in (own, copied))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    again = pickle.loads(pickle.dumps(copied))
    assert implementation_of(step(again)) == NEXT_BEST[name]


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
def test_a_step_that_the_class_takes_is_shown_as_the_classs_until_it_ends():
    p = nn.Parameter(torch.ones(6))
    optimizer = step(factory_of("cautious adamw").build([p]))
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.state[p]["max_exp_avg_sq"] = torch.zeros(6)
    assert implementation_of(step(optimizer)) == "default + reference"
    optimizer.param_groups[0]["amsgrad"] = False
    assert implementation_of(step(optimizer)) == "compiled"


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
def test_under_a_grad_scaler_the_fused_step_takes_over():
    """It reads the scale and skips an overflow, as without compiled steps."""
    moved = []
    for implementation in ("auto", "fused"):
        p = nn.Parameter(torch.ones(5))
        optimizer = factory_of("adamw", implementation=implementation).build([p])
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for update in range(3):
            optimizer.zero_grad()
            scaler.scale((p * p * (torch.inf if update == 1 else 1.0)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.scheduler.last_epoch == 2
        assert implementation_of(optimizer) == "fused"
        moved.append(p.detach())
    assert torch.equal(*moved)


@NO_COMPILER
@pytest.mark.parametrize("caution", [False, True])
def test_moments_in_bfloat16_are_compiled_at_any_size(caution):
    params = {"state_dtype": "bfloat16", "lr": 0.01, "use_cautious_optimizer": caution}
    module, optimizer = trained("adamw", params, torch.float32, updates=3)
    twin, _ = trained("adamw", {**params, "implementation": "compiled"}, torch.float32, updates=3)
    assert implementation_of(optimizer) == "compiled"
    assert apart(module, twin) == 0


def test_moments_in_bfloat16_are_refused_without_a_compiler(no_compiler):
    no_compiler()
    with pytest.raises(ValueError, match=r"state_dtype: bfloat16 needs .*; found there is no compiler"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](state_dtype="bfloat16").build(Shapes(torch.float32))


@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize(
    "parameter", [torch.ones(6, device="meta"), torch.ones(6, dtype=torch.complex64)], ids=["meta", "complex"]
)
def test_nothing_is_compiled_for_parameters_that_no_compiled_step_takes(parameter, monkeypatch):
    monkeypatch.setattr(native_library, "check_step", lambda *of: pytest.fail("it was compiled"))
    for params in ({}, {"amsgrad": True}):
        optimizer = factory_of("adamw", **params).build([nn.Parameter(parameter)])
        assert implementation_of(optimizer) != "compiled"


@pytest.mark.usefixtures("_all_are_large")
def test_nothing_is_compiled_for_schedule_free_steps_in_half_precision(monkeypatch):
    monkeypatch.setattr(native_library, "check_step", lambda *of: pytest.fail("it was compiled"))
    optimizer = factory_of("schedule_free_radam").build([nn.Parameter(torch.ones(6, dtype=torch.bfloat16))])
    assert implementation_of(optimizer) != "compiled"


@NO_COMPILER
@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize("name", STEPS)
def test_frozen_and_empty_parameters_stay_where_they_are(name):
    frozen, empty, p = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(4))
    optimizer = factory_of(name).build([frozen.requires_grad_(False), empty, p])
    for _ in range(8):
        p.grad, empty.grad = torch.ones(4), torch.ones(0, 3)
        optimizer.step()
    assert implementation_of(optimizer) == "compiled"
    assert torch.all(frozen == 1)
    assert torch.all(p != 1)


@pytest.mark.parametrize("name", ["cautious adamw", "cautious sgd", "schedule_free_radam"])
def test_blocks_can_be_asked_for_whatever_the_size(name, monkeypatch):
    monkeypatch.setattr(limits, "LEAST_ELEMENTS", 1)
    optimizer = factory_of(name, implementation="blocks").build([nn.Parameter(torch.ones(3))])
    assert implementation_of(step(optimizer)) == "blocks"


def test_blocks_are_refused_where_there_are_none():
    with pytest.raises(
        ValueError, match="AdamW has no blocks one here: there is one for cautious Adam, cautious AdamW"
    ):
        factory_of("adamw", implementation="blocks").build([nn.Parameter(torch.ones(3))])
