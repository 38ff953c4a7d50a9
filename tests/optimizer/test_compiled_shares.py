"""Shares of compiled steps' threads: whatever the sizes of rows, any number of threads takes each element once."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import native, native_library

pytestmark = NO_COMPILER

PIECE, BLOCK, BUNDLE = 1024, 16_384, 1 << 20
"""Of native.c."""

SIZES = {
    "none": [0],
    "only empty ones": [0, 0, 0],
    "fewer elements than threads": [0, 3, 0],
    "one piece": [PIECE],
    "around a piece": [PIECE - 1, PIECE, PIECE + 1, 0, 2 * PIECE - 1, 2 * PIECE + 1],
    "around a block": [BLOCK - 1, BLOCK, BLOCK + 1],
    "a large one among small ones": [*[1] * 30, 0, 50_001, *[2] * 30],
    "small ones": [size % 4 for size in range(800)],
    "around a bundle": [BUNDLE - 1, 1, 1, BUNDLE + 1, 0, 5, BUNDLE // 2, BUNDLE // 2, 7],
}

STEPS = {
    "adam": ("adamw", {"weight_decay": 0.1}),
    "cautious adam": ("adam", {"weight_decay": 0.1, "use_cautious_optimizer": True}),
    "cautious sgd": ("sgd", {"momentum": 0.9, "nesterov": True, "use_cautious_optimizer": True}),
    "schedule-free": ("schedule_free_radam", {}),
}


@pytest.fixture
def threads(monkeypatch):
    """Return the numbers of threads to try, which any size takes."""
    monkeypatch.setattr(native, "ELEMENTS_ON_ONE_THREAD", -1)
    before = torch.get_num_threads()
    yield (1, 2, 3, 8)
    torch.set_num_threads(before)


def stepped(name, sizes, dtype, implementation="compiled"):
    """Return the parameters after two steps."""
    key, params = STEPS[name]
    generator = torch.Generator().manual_seed(5)
    parameters = [nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in sizes]
    factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, grad_clip_norm=None, implementation=implementation, **params)
    optimizer = factory.build(parameters)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return torch.cat([p.detach() for p in parameters])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", STEPS)
def test_any_number_of_threads_takes_the_step_of_the_class(name, sizes, dtype, threads):
    if name == "schedule-free" and dtype != torch.float64:
        pytest.skip("schedule-free steps in half precision are not compiled")
    found = []
    for count in threads:
        torch.set_num_threads(count)
        found.append(stepped(name, SIZES[sizes], dtype))
    assert all(torch.equal(found[0], other) for other in found[1:])
    if dtype == torch.float64:
        slow = stepped(name, SIZES[sizes], dtype, "blocks" if name == "schedule-free" else "single")
        torch.testing.assert_close(found[0], slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_agreeing_elements_are_counted_exactly(sizes, threads):
    generator = torch.Generator().manual_seed(6)
    rows = [[torch.randn(size, generator=generator) for _ in range(4)] for size in SIZES[sizes]]
    for _, gradient, average, _ in rows:
        gradient[::7], average[::11] = 0.0, 0.0
    expected = [int((((average + gradient) / 2) * gradient > 0).sum()) for _, gradient, average, _ in rows]
    for count in threads:
        torch.set_num_threads(count)
        own = [[tensor.clone() for tensor in row] for row in rows]  # a count may write the averages
        step = native.Step("cautious_adam", own, [0] * len(own))
        step.set_numbers([(0.5, 0.9, 0.1, 1e-8, 1.0, 0.1, 1.0, 0.0, 1.0, 0.0, 1e-8, 1.0)])
        step.count([row[1] for row in own])
        assert step.agreeing.tolist() == expected


@pytest.mark.parametrize("penalty", [0.0, 0.25, 1e-50])
@pytest.mark.parametrize("pair", native_library.PAIRS, ids=str)
@pytest.mark.parametrize("name", ["cautious_adam", "cautious_sgd", "nesterov"])
def test_a_step_in_two_halves_is_the_whole_step_bit_for_bit(name, pair, penalty, threads):
    generator = torch.Generator().manual_seed(7)
    dtypes = [pair[0], pair[0], pair[1], pair[1]][: 4 if name == "cautious_adam" else 3]
    rows = [[torch.rand(size, generator=generator).to(dtype) for dtype in dtypes] for size in (5, 40_001)]
    for parameter, gradient, *_ in rows:
        gradient.sub_(0.5)
        gradient[1::9], parameter[::11] = 0.0, float("inf")  # an infinite one shows a penalty that rounds to 0
    adam = (0.1, 0.99, 0.01, 1e-8, 1.2, 0.1, 0.9, penalty, -1.0, 0.0, 1e-8, 3.0)
    sgd = (0.9, 0.5, 0.1, penalty, -1.0, 0.0, 1e-8, float(name == "nesterov"), 3.0)
    found = []
    for count, is_whole in ((1, True), (1, False), (3, False)):
        torch.set_num_threads(count)
        own = [[tensor.clone() for tensor in row] for row in rows]
        step = native.Step("cautious_adam" if dtypes[3:] else "cautious_sgd", own, [0, 0], is_noisy=True)
        step.set_numbers([adam if dtypes[3:] else sgd], 0.5)
        if is_whole:
            step.take([row[1] for row in own])
        else:
            step.count([row[1] for row in own])
            step.move(step.agreeing.clone())
        found.append(own)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("sizes", SIZES)
def test_squares_are_the_same_for_any_number_of_threads(sizes, threads):
    generator = torch.Generator().manual_seed(8)
    gradients = [torch.randn(size, generator=generator, dtype=torch.float64) for size in SIZES[sizes]]
    found = []
    for count in threads:
        torch.set_num_threads(count)
        found.append([*native.squares(gradients)])
    assert all(found[0] == other for other in found[1:])
    assert found[0] == pytest.approx([gradient.square().sum().item() for gradient in gradients], rel=1e-12, abs=0)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs GCC, whose OpenMP the driver stands in for")
@pytest.mark.parametrize("pair", native_library.PAIRS, ids=str)
def test_the_driver_of_the_sanitizers_compiles(pair):
    driver, kernels = Path(__file__).parents[2] / "benchmarks" / "sanitizers.c", native_library.SOURCE.parent
    flags = ["-fsyntax-only", "-fopenmp", f"-I{kernels}", *native_library.type_flags(*pair)]
    done = subprocess.run(["gcc", *flags, str(driver)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
