"""Tensors that are not plain memory: a step is right or refused in words; no process ends, nothing moves in part."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import NO_COMPILER, ROOT
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import compiled, native_library

WORKER = ROOT / "tests" / "workers" / "odd_memory.py"
WAYS = [
    ("compiled", "plain"),
    ("auto", "plain"),
    ("compiled", "cautious"),
    ("auto", "cautious"),
    ("single", "cautious"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return what came of each case, by implementation and caution."""
    folder, running = tmp_path_factory.mktemp("odd"), {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    for way in WAYS:
        path = folder / "-".join(way)
        command = [sys.executable, WORKER, *way, path]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running[way] = (process, path)
    found = {}
    for way, (process, path) in running.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"{way} ended with {process.returncode} in {out.splitlines()[-1:]}\n{err}"
        found[way] = json.loads(path.read_text())
    return found


REFUSED = {
    "freed parameter": "RuntimeError: a parameter of shape .* was freed or resized",
    "freed gradient": "RuntimeError: the gradient of a parameter of shape .* was freed or resized",
    "freed moment": "RuntimeError: exp_avg of a parameter",
    "shrunk parameter": "RuntimeError: a parameter of shape .* there are 64",
    "shrunk gradient": "RuntimeError: the gradient of a parameter of shape .* there are 32",
    "shrunk moment": "RuntimeError: exp_avg_sq of a parameter .* there are 32",
    "moment of another shape": r"ValueError: the state of a parameter of shape \[40000, 1\].*\[200, 200\]",
    "loaded moment of another shape": r"Error: .*\[200, 200\]",
    "larger parameter": "Error: ",
    "fake gradient": "Error: ",
}


@NO_COMPILER
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_what_no_step_can_take_is_refused_before_anything_moves(reports, way, case):
    found = reports[way][case]
    assert "error" in found
    assert not found["moved"] or case == "fake gradient"  # the class's own step finds that one out
    if way != ("single", "cautious") or "moment of another shape" not in case:  # torch's own words there
        assert re.search(REFUSED[case], found["error"])


@NO_COMPILER
@pytest.mark.parametrize("case", ["moment of another type", "lost moment"])
@pytest.mark.parametrize("way", WAYS[:4], ids="-".join)
def test_state_that_does_not_fit_is_refused_before_anything_moves(reports, way, case):
    assert "Error" in reports[way][case]["error"]
    assert not reports[way][case]["moved"]


RIGHT = {
    "zero gradient": 0.99 - 0.01 * (0.9 * 0.1 / 0.19) / (0.999 * 0.001 / 0.001999) ** 0.5,
    "negated gradient": 0.98,
    "negated parameter": 0.98,
    "wrapped gradient": 0.98,
    "parameter with gaps": 0.99,
}


@NO_COMPILER
@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_what_the_class_can_take_is_stepped_right(reports, way, case):
    found = reports[way][case]
    expected = 0.99 if case == "zero gradient" and way[1] == "cautious" else RIGHT[case]
    assert found.get("at") == pytest.approx(expected, rel=1e-5), found
    assert found["moved"]


@NO_COMPILER
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_moment_with_its_elements_elsewhere_is_the_classs_matter(reports, way):
    found = reports[way]["wrapped moment"]
    if way[1] == "plain":
        assert found["at"] == pytest.approx(0.98, rel=1e-5)
    else:  # whether such a tensor can be float64 is not known
        assert "expected dtype float" in found["error"]
        assert not found["moved"]


@NO_COMPILER
@pytest.mark.parametrize("implementation", ["auto", "compiled"])
def test_parameters_that_overlap_are_no_kernels(implementation):
    memory = torch.ones(400)
    parameters = [nn.Parameter(memory[:300]), nn.Parameter(memory[1:])]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        implementation=implementation, use_cautious_optimizer=True, grad_clip_norm=None
    )
    if implementation == "compiled":
        with pytest.raises(ValueError, match="here: two parameters share memory"):
            factory.build(parameters)
    else:
        assert factory.build(parameters).kernel is None
    apart = [nn.Parameter(memory[:200]), nn.Parameter(memory[200:])]
    assert factory.build(apart).kernel is not None


@NO_COMPILER
def test_groups_that_overlap_are_stepped_one_after_the_other():
    results = []
    for implementation in ("compiled", "fused"):
        memory = torch.ones(400_000)
        groups = [{"params": [nn.Parameter(part)]} for part in (memory[:300_000], memory[100_000:])]
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, implementation=implementation, grad_clip_norm=None)
        optimizer = factory.build(groups)
        for _ in range(3):
            for group in groups:
                group["params"][0].grad = torch.ones(300_000)
            optimizer.step()
        results.append(memory)
        assert optimizer.unsupported == "two parameters share memory"
    assert torch.equal(*results)


@NO_COMPILER
def test_a_late_group_that_cannot_be_compiled_is_stepped_by_the_class(monkeypatch):
    p, late = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5, dtype=torch.float64))
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        lr=0.01, weight_decay=0.0, implementation="compiled", grad_clip_norm=None
    )
    optimizer = factory.build([p])
    native_library.library.cache_clear()
    monkeypatch.setattr(compiled, "FAILURES", {})
    monkeypatch.setenv("CC", "/nowhere/cc")
    optimizer.add_param_group({"params": [late]})
    for _ in range(2):
        p.grad, late.grad = torch.ones(5), torch.ones(5, dtype=torch.float64)
        optimizer.step()
    native_library.library.cache_clear()
    assert p[0].item() == pytest.approx(0.98, rel=1e-6)
    assert late[0].item() == pytest.approx(0.98, rel=1e-6)


def test_a_compiler_that_prints_odd_bytes_or_does_not_end_is_told_in_words(monkeypatch, tmp_path):
    native_library.library.cache_clear()
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 0.2)
    for text, message in (
        ("printf 'erreur \\351\\n' >&2; exit 1", "could not compile native.c: erreur"),
        ("exec sleep 30", "did not compile native.c in 0.2 seconds"),
    ):
        compiler = tmp_path / "cc"
        compiler.write_text(f"#!/bin/sh\n{text}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled")
        with pytest.raises(ValueError, match=f"has no compiled one here: .*{message}"):
            factory.build([nn.Parameter(torch.ones(3))])
    native_library.library.cache_clear()


def free_gradient(p, state):
    p.grad.untyped_storage().resize_(0)


def free_moment(p, state):
    next(value for value in state.values() if value.dim()).untyped_storage().resize_(0)


def turn_moments(p, state):
    state |= {name: value.double() for name, value in state.items() if value.dim()}


def reshape_moments(p, state):
    state |= {name: value.reshape(2, 6) for name, value in state.items() if value.dim()}


NAMED = {
    free_gradient: "the gradient of parameter 'inner.weight' of shape [3, 4]: needs 48 bytes",
    free_moment: "of parameter 'inner.weight' of shape [3, 4]: needs 48 bytes",
    turn_moments: "the tensors of parameter 'inner.weight' differ in type or device: torch.float32 [3, 4] on cpu",
    reshape_moments: "the state of parameter 'inner.weight' of shape [3, 4]: ",
}


@pytest.mark.parametrize("spoil", NAMED, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize(
    ("key", "options"), [("adamw", {}), ("sgd", {"momentum": 0.9}), ("adam", {"use_cautious_optimizer": True})]
)
def test_a_parameter_that_cannot_be_stepped_is_called_by_its_name(key, options, spoil):
    module = nn.ModuleDict({"outer": nn.Linear(2, 2), "inner": nn.Linear(4, 3, bias=False)})
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=1e-2, grad_clip_norm=None, **options).build(module)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    spoil(module["inner"].weight, optimizer.state[module["inner"].weight])
    outer = module["outer"].weight.detach().clone()
    with pytest.raises((ValueError, RuntimeError, TypeError)) as raised:
        optimizer.step()
    assert NAMED[spoil] in str(raised.value)
    assert torch.equal(outer, module["outer"].weight)
