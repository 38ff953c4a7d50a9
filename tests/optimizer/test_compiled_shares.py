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


def moved(name, pair, penalty, *, in_halves):
    """Return the tensors of two rows after a cautious step."""
    generator = torch.Generator().manual_seed(7)
    dtypes = [*pair[:1] * 2, *pair[1:] * (2 if name == "cautious_adam" else 1)]
    rows = [[torch.rand(size, generator=generator).to(dtype) for dtype in dtypes] for size in (5, 40_001)]
    for parameter, gradient, *_ in rows:
        gradient.sub_(0.5)
        gradient[1::9], parameter[::11] = 0.0, float("inf")
    numbers = {
        "cautious_adam": (0.1, 0.99, 0.01, 1e-8, 1.2, 0.1, 0.9, penalty, -1.0, 0.0, 1e-8, 3.0),
        "cautious_sgd": (0.9, 0.5, 0.1, penalty, -1.0, 0.0, 1e-8, 0.0, 3.0),
        "nesterov": (0.9, 0.5, 0.1, penalty, -1.0, 0.0, 1e-8, 1.0, 3.0),
    }
    step = native.Step("cautious_sgd" if name == "nesterov" else name, rows, [0, 0], is_noisy=True)
    step.set_numbers([numbers[name]], 0.5)
    gradients = [row[1] for row in rows]
    if in_halves:
        step.count(gradients)
        step.move(step.agreeing.clone())
    else:
        step.take(gradients)
    return rows


def assert_equal(rows, others):
    torch.testing.assert_close(rows, others, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("penalty", [0.0, 0.25, 1e-50])
@pytest.mark.parametrize("pair", native_library.PAIRS, ids=str)
@pytest.mark.parametrize("name", ["cautious_adam", "cautious_sgd", "nesterov"])
def test_a_step_in_two_halves_is_the_whole_step_bit_for_bit(name, pair, penalty, threads):
    whole = moved(name, pair, penalty, in_halves=False)
    for count in (1, 3):
        torch.set_num_threads(count)
        assert_equal(whole, moved(name, pair, penalty, in_halves=True))


@pytest.mark.parametrize("pair", [pair for pair in native_library.PAIRS if torch.float64 not in pair], ids=str)
@pytest.mark.parametrize("name", ["cautious_adam", "cautious_sgd", "nesterov"])
def test_a_penalty_that_rounds_to_0_is_nothing_to_infinite_parameters(name, pair):
    assert_equal(moved(name, pair, 0.0, in_halves=True), moved(name, pair, 1e-50, in_halves=True))


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
