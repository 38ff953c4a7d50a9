"""Compiled steps on the CPU against their slow twins, and what they refuse before memory is touched."""

from pathlib import Path

import pytest
import schedulefree
import torch
from conftest import NO_COMPILER
from sample_steps import CAUTIOUS, RADAM, WITH_KERNELS, Contiguous, Shapes, apart, cautious, trained
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import blocks, native_library
from optimizer.kernels.registry import implementation_of


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)


@NO_COMPILER
@pytest.mark.parametrize("name", [name for name in CAUTIOUS if name != "sgd without momentum"])
def test_compiled_a_cautious_step_is_the_reference(name):
    reference, slow = cautious(name, "single", torch.float64)
    exact, fast = cautious(name, "compiled", torch.float64)
    assert implementation_of(fast) == "compiled"
    assert apart(exact, reference) < 1e-12
    for ours, theirs in zip(fast.state.values(), slow.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(list(ours.values()), list(theirs.values()))
    assert apart(cautious(name, "compiled", torch.float32)[0], reference) < 1e-6


ADAM = {
    "adamw": ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
    "upward": ("adamw", {"lr": 0.01, "maximize": True, "betas": [0.8, 0.95], "eps": 1e-6}),
    "adam with a penalty": ("adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adam upward with a penalty": ("adam", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "warm-up and cosine": CAUTIOUS["warm-up and cosine"],
}


@NO_COMPILER
@pytest.mark.parametrize("name", ADAM)
def test_compiled_an_adam_step_is_that_of_the_class(name):
    key, params = ADAM[name]
    params = {"grad_clip_norm": None, **params}
    reference, slow = trained(key, {**params, "implementation": "single"}, torch.float64)
    exact, fast = trained(key, {**params, "implementation": "compiled"}, torch.float64)
    assert implementation_of(fast) == "compiled"
    assert apart(exact, reference) < 1e-12
    for ours, theirs in zip(fast.state.values(), slow.state.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert apart(trained(key, {**params, "implementation": "compiled"}, torch.float32)[0], reference) < 1e-6


SIZES = [(3,), (1_100_003,), (16_384,), (16_385,), (700, 900), (40_001,), (0,)]
"""One of several bundles of rows, some of several blocks, and beginning and ending within lines."""


@NO_COMPILER
@pytest.mark.parametrize(
    ("key", "caution"), [("adamw", False), ("adamw", True), ("sgd", True), ("schedule_free_radam", False)]
)
def test_compiled_steps_reach_every_element_of_large_parameters(key, caution, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 10_000)  # small ones would take long here
    params = {"adamw": {"weight_decay": 0.1}, "sgd": {"momentum": 0.9}}.get(key, {})
    params |= {"use_cautious_optimizer": True} if caution else {}
    moved = []
    slow_one = "auto" if key == "schedule_free_radam" else "single"
    for implementation, dtype in ((slow_one, torch.float64), ("compiled", torch.float32)):
        torch.manual_seed(0)
        values = [torch.randn(torch.Size(size).numel() + 1)[1:].view(size) for size in SIZES]  # not on a cache line
        parameters = [nn.Parameter(value.to(dtype)) for value in values]
        factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, implementation=implementation, grad_clip_norm=None, **params)
        optimizer = factory.build(parameters)
        for _ in range(8):
            for p in parameters:
                p.grad = torch.randn(p.shape).to(dtype)
            optimizer.step()
        moved.append(parameters)
    for slow, fast in zip(*moved, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6, check_dtype=False)


@NO_COMPILER
def test_the_number_of_threads_changes_nothing():
    moved, threads = [], torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(300_000))
        optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](
            lr=0.01, use_cautious_optimizer=True, implementation="compiled", grad_clip_norm=None
        ).build([p])
        for _ in range(3):
            p.grad = torch.randn_like(p)
            optimizer.step()
        moved.append(p.detach())
    torch.set_num_threads(threads)
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])


@NO_COMPILER
def test_a_state_of_another_type_is_refused_before_it_is_read():
    module = Contiguous(torch.float32)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", grad_clip_norm=None).build(module)
    for dtype in (torch.float32, torch.float64):
        module.to(dtype)
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        if dtype == torch.float32:
            optimizer.step()
    with pytest.raises(TypeError, match=r"of parameter 'large' differ .*: torch\.float64 .*, torch\.float32"):
        optimizer.step()
    assert {state["step"].item() for state in optimizer.state.values()} == {1.0}


@NO_COMPILER
def test_a_state_that_is_elsewhere_is_refused_before_it_is_read():
    p = nn.Parameter(torch.ones(8))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", grad_clip_norm=None).build([p])
    p.grad = torch.ones(8)
    optimizer.step()
    optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].to("meta")
    with pytest.raises(TypeError, match=r"of a parameter differ .* on meta"):
        optimizer.step()


@NO_COMPILER
def test_parameters_that_are_one_in_memory_are_left_to_the_class():
    """Two threads would move it at once."""
    moved = []
    for implementation in ("compiled", "single"):
        torch.manual_seed(0)
        first, second = nn.Parameter(torch.ones(200, 200)), nn.Parameter(torch.ones(200, 200))
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, implementation=implementation, grad_clip_norm=None)
        optimizer = factory.build([first, second])
        second.data = first.data
        for _ in range(5):
            first.grad, second.grad = torch.randn(200, 200), torch.randn(200, 200)
            optimizer.step()
        moved.append(first.detach())
        if implementation == "compiled":
            with pytest.raises(ValueError, match=r"here: two parameters share memory$"):
                factory.build([first, second])
    assert torch.equal(*moved)


@NO_COMPILER
@pytest.mark.parametrize(
    ("params", "gradients"),
    [({"betas": [1e-30, 0.99]}, [1e4, 1e-4]), ({"betas": [0.3, 0.99]}, [1e4, 1e-4]), ({}, [5e19, 1.0])],
)
def test_compiled_moments_lose_no_more_than_those_of_the_class(params, gradients):
    states = []
    for implementation in ("compiled", "single"):
        p = nn.Parameter(torch.ones(40))
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation=implementation, grad_clip_norm=None, **params)
        optimizer = factory.build([p])
        for gradient in gradients:
            p.grad = torch.full((40,), gradient)
            optimizer.step()
        states.append(optimizer.state[p])
    assert states[1]["exp_avg_sq"].isfinite().all()
    torch.testing.assert_close(*states, rtol=1e-6, atol=0.0)


@NO_COMPILER
@pytest.mark.parametrize(("key", "params"), WITH_KERNELS)
def test_an_infinite_parameter_is_nothing_to_compiled_steps_without_a_penalty(key, params):
    p = nn.Parameter(torch.tensor([-torch.inf] * 3 + [1.0] * 17))
    factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, implementation="compiled", weight_decay=0.0, **params)
    optimizer = factory.build([p])
    for _ in range(3):
        p.grad = torch.cat([torch.zeros(3), torch.ones(17)])
        optimizer.step()
    state = [value for name, value in optimizer.state[p].items() if name != "z" and value.ndim]
    assert all(value.isfinite().all() for value in state)
    assert torch.all(p[3:] < 1.0)


@NO_COMPILER
@pytest.mark.parametrize(("saved", "own"), [("compiled", "auto"), ("auto", "compiled"), ("single", "auto")])
def test_a_state_dict_does_not_change_the_implementation(saved, own):
    first, second = Contiguous(torch.float32), Contiguous(torch.float32)
    trained_one, other = (
        OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, implementation=one).build(module)
        for module, one in ((first, saved), (second, own))
    )
    for p in first.parameters():
        p.grad = torch.ones_like(p)
    trained_one.step()
    other.load_state_dict(trained_one.state_dict())
    second.load_state_dict(first.state_dict())
    assert other.param_groups[0]["fused"] == (True if own == "auto" else None)
    assert implementation_of(other) == ("fused" if own == "auto" else own)
    for module, optimizer in ((first, trained_one), (second, other)):
        for p in module.parameters():
            p.grad = torch.full_like(p, 2.0)
        optimizer.step()
    assert apart(second, first) < 1e-6


@NO_COMPILER
def test_a_closure_that_makes_sparse_gradients_is_told_so_by_the_class():
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", grad_clip_norm=None).build(table)

    def closure():
        optimizer.zero_grad()
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step(closure)


@NO_COMPILER
@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("adamw", {}),
        ("adamw", {"implementation": "compiled"}),
        ("adamw", {"use_cautious_optimizer": True}),
        ("sgd", {"momentum": 0.9}),
        ("schedule_free_radam", {"implementation": "compiled"}),
    ],
)
def test_a_graph_from_before_a_step_is_not_gone_through_after_it(key, params):
    p = nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params).build([p])
    loss = p.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@NO_COMPILER
def test_a_compiler_that_makes_another_library_is_told_when_the_optimizer_is_built(monkeypatch, tmp_path):
    compiler, source = tmp_path / "other-cc", tmp_path / "other.c"
    source.write_text("int nothing(void) { return 0; }")
    compiler.write_text(
        f'#!/bin/sh\nfor last in "$@"; do case "$last" in *.so) out="$last";; esac; done\n'
        f'exec cc -shared -fPIC {source} -o "$out"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    native_library.library.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"made a library of native\.c without the step adam"):
            OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled").build([nn.Parameter(torch.zeros(3))])
    finally:
        native_library.library.cache_clear()


def test_compiled_says_so_when_the_optimizer_is_built_without_a_compiler(monkeypatch):
    native_library.library.cache_clear()
    for compiler, message in (
        ("/nowhere/cc", "the C compiler '/nowhere/cc' cannot be started: No such file .* set CC"),
        (str(Path(__file__).parent), "cannot be started: Permission denied"),
        ("false", "false could not compile native.c"),
        ("'cc", "CC: No closing quotation: 'cc"),
    ):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(ValueError, match=f"^implementation: .* has no compiled one here: .*{message}"):
            OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled").build(Shapes(torch.float32))


@NO_COMPILER
@pytest.mark.parametrize("params", RADAM[:2])
def test_compiled_schedule_free_radam_is_the_librarys_but_for_rounding(params):
    ours, _ = trained("schedule_free_radam", {**params, "implementation": "compiled"}, torch.float32, updates=100)
    theirs, _ = trained(schedulefree.RAdamScheduleFree, params, torch.float32, updates=100)
    assert apart(ours, theirs) < 1e-6


@pytest.mark.parametrize(
    ("key", "params", "message"),
    [
        ("rmsprop", {}, "there is one for Adam, AdamW, cautious SGD and RAdamScheduleFree"),
        ("sgd", {"momentum": 0.9}, "there is one for Adam, AdamW, cautious SGD and RAdamScheduleFree"),
        ("sgd", {"use_cautious_optimizer": True}, "it does not support SGD without momentum"),
        ("adamw", {"use_cautious_optimizer": True, "amsgrad": True}, "it does not support amsgrad"),
    ],
)
def test_compiled_is_refused_where_it_is_not(key, params, message):
    factory = OPTIMIZER_BUILDER_REGISTRY[key](**params, implementation="compiled")
    with pytest.raises(ValueError, match=f"^implementation: .* has no compiled one here: {message}$"):
        factory.build(Shapes(torch.float32))


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (torch.ones(4, 6)[:, ::2], "a parameter has gaps in memory"),
        (torch.ones(4, dtype=torch.complex64), r"a parameter is torch\.complex64 on cpu"),
    ],
)
def test_compiled_is_refused_for_parameters_that_it_does_not_know(parameter, message):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled")
    with pytest.raises(ValueError, match=f"^implementation: .* has no compiled one here: {message}$"):
        factory.build([nn.Parameter(parameter)])
