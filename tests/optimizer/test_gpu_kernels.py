"""Steps in Triton, by its interpreter, compiled, and on a device, against the libraries' and a twin in float64."""

import importlib.util
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import schedulefree
import torch
from conftest import ROOT

from optimizer import CautiousOptimizer

triton = pytest.importorskip("triton", reason="needs triton, which comes with torch's builds for CUDA")

UPDATES = 30
CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]


def loaded(monkeypatch, interpreted):
    """Return the kernels as a module of their own, which no other test will find."""
    with monkeypatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", str(int(interpreted)))
        spec = importlib.util.spec_from_file_location("kernels_of_a_test", ROOT / "optimizer" / "kernels" / "gpu.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def gpu(request, monkeypatch):
    module = loaded(monkeypatch, interpreted=request.param == "cpu")
    module.device = request.param
    module.BLOCK = 16 if request.param == "cpu" else 2048  # the interpreter takes element by element
    return module


def parameters(gpu):
    """Return tensors of one number, of a block, of one more, of several blocks, of none; and one turned around."""
    torch.manual_seed(0)
    sizes = (1, gpu.BLOCK, gpu.BLOCK + 1, 2 * gpu.BLOCK + 8, 0)
    return [torch.randn(size, device=gpu.device) for size in sizes] + [torch.randn(3, 5, device=gpu.device).t()]


def gradient_of(p, update, index=0):
    """Return a gradient in float32, some of it exactly 0, laid out as `p`."""
    values = torch.randn(p.shape, generator=torch.Generator().manual_seed(97 * update + index))
    return torch.zeros_like(p, dtype=torch.float32).copy_(torch.where(values.abs() < 0.2, 0.0, values))


def apart(ours, theirs):
    """Return how far tensors are apart, against the largest number of each of theirs, 1 at least: they began so."""
    pairs = [(one.double(), other) for one, other in zip(ours, theirs, strict=True) if other.numel()]
    return float(
        torch.stack([(one - other).abs().max() / other.abs().max().clamp(min=1) for one, other in pairs]).max()
    )


def tensors(rows):
    return [x for row in rows for x in row]


def adam(update, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, adamw=True, maximize=False, caution=None):
    (beta1, beta2), step = betas, update + 1
    root, size = 1 / math.sqrt(1 - beta2**step), lr / (1 - beta1**step)
    kept, penalty = (1 - lr * weight_decay, 0.0) if adamw else (1.0, weight_decay)
    least, slack = caution or (0.0, 1e-8)
    return [1 - beta1, beta2, 1 - beta2, eps, root, size, kept, penalty, -1 if maximize else 1, least, slack]


def sgd(update, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, maximize=False, caution=None):
    taken = 1 - dampening if update else 1.0
    return [momentum, taken, lr, weight_decay, -1 if maximize else 1, *(caution or (0.0, 1e-8))]


def moved(p, update, agree, lr, least, slack):
    mean = float(agree.double().mean()) if agree.numel() else 0.0
    p.sub_(torch.where(agree, update, update * 0.0) * (lr / (max(mean, least) + slack)))


def twin_of_adam(p, gradient, average, square, numbers, choice, cautious=False):
    take1, keep2, take2, eps, root, size, keep, penalty, sign, least, slack = numbers
    ascent = sign * gradient
    whole = ascent + penalty * p if penalty else ascent
    average.add_((whole - average) * take1)
    square.mul_(keep2).add_(whole * whole * take2)
    p.mul_(keep)
    update = average / (square.sqrt() * root + eps)
    if cautious:
        moved(p, update, average * ascent > 0, size, least, slack)
    else:
        p.sub_(update * size)


def twin_of_sgd(p, gradient, buffer, numbers, nesterov):
    momentum, taken, lr, penalty, sign, least, slack = numbers
    ascent = sign * gradient
    whole = ascent + penalty * p if penalty else ascent
    buffer.mul_(momentum).add_(whole * taken)
    direction = whole + buffer * momentum if nesterov else buffer
    moved(p, direction, direction * ascent > 0, lr, least, slack)


def twin_of_radam(y, gradient, square, z, numbers, adaptive):
    beta2, take2, correction, eps, decay, share, own_lr, lr = numbers
    square.mul_(beta2).add_(gradient * gradient * take2)
    direction = gradient / ((square / correction).sqrt() + eps) if adaptive else gradient
    direction = direction + decay * y
    y.add_((z - y) * share).add_(own_lr * direction)
    z.sub_(lr * direction)


TWINS = {
    "adam": (twin_of_adam, 2),
    "cautious_adam": (partial(twin_of_adam, cautious=True), 2),
    "cautious_sgd": (twin_of_sgd, 1),
    "schedule_free_radam": (twin_of_radam, 2),
}
CHOICES = [
    ("adam", False),
    ("cautious_adam", False),
    *((name, choice) for name in ("cautious_sgd", "schedule_free_radam") for choice in (False, True)),
]


def radam(update, share=0.3, decay=0.1, lr=0.01):
    return [0.99, 0.01, 1 - 0.99 ** (update + 1), 1e-8, decay, share, -lr * 0.4, lr]


ADAMS = [
    lambda update: adam(update, weight_decay=0.1),
    lambda update: adam(update, weight_decay=0.1, adamw=False, maximize=True, lr=0.01 / (update + 1)),
    lambda update: adam(update, betas=(0.5, 0.9), eps=1e-3, caution=(0.6, 0.01)),
]
VARIANTS = {
    "adam": ADAMS,
    "cautious_adam": ADAMS,
    "cautious_sgd": [
        lambda update: sgd(update, weight_decay=0.1, dampening=0.3),
        lambda update: sgd(update, maximize=True, weight_decay=0.1, lr=0.1 / (update + 1)),
        lambda update: sgd(update, momentum=0.0, caution=(0.6, 0.01)),
    ],
    "schedule_free_radam": [radam, lambda update: radam(update, share=0.0, decay=0.0, lr=0.1 / (update + 1))],
}


def unaligned(values):
    """Return a copy of `values` that begins one element into a buffer."""
    return values.new_empty(values.numel() + 1)[1:].copy_(values)


def rows_of(gpu, name):
    """Return rows of all sizes, and the twins of them in float64."""
    rows = []
    for p in parameters(gpu):
        states = [torch.rand_like(p) for _ in range(TWINS[name][1])]
        rows.append([p, torch.zeros_like(p), *states])
    rows[2] = [unaligned(x) for x in rows[2]]
    return rows, [[x.double() for x in row] for row in rows]


def step(gpu, name, rows, twins, numbers, choice, gradients):
    for row, twin, gradient in zip(rows, twins, gradients, strict=True):
        row[1].copy_(gradient)
        twin[1].copy_(gradient)
    gpu.run(name, rows, numbers, choice)
    for twin, some in zip(twins, numbers, strict=True):
        TWINS[name][0](*twin, some, choice)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_gradients_that_a_step_scales_are_as_scaled_ones(gpu, name, choice):
    rows, others = rows_of(gpu, name)[0], rows_of(gpu, name)[0]
    numbers, scale = [VARIANTS[name][0](0)] * len(rows), torch.tensor(0.7123, device=gpu.device)
    for row, other in zip(rows, others, strict=True):
        other[1].copy_(row[1].copy_(gradient_of(row[0], 0))).mul_(scale)
    gpu.run(name, rows, numbers, choice, scale)
    gpu.run(name, others, numbers, choice)
    assert all(map(torch.equal, (x for row in rows for x in row[2:]), (x for row in others for x in row[2:])))
    assert all(map(torch.equal, (row[0] for row in rows), (row[0] for row in others)))


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_each_row_takes_the_step_of_its_own_numbers(gpu, name, choice):
    variants = VARIANTS[name]
    rows, twins = rows_of(gpu, name)
    for update in range(UPDATES):
        numbers = [variants[(index + choice) % len(variants)](update) for index in range(len(rows))]
        gradients = [gradient_of(row[0], update, index) for index, row in enumerate(rows)]
        step(gpu, name, rows, twins, numbers, choice, gradients)
        assert all(map(torch.equal, (row[1] for row in rows), gradients))
    assert apart(tensors(rows), tensors(twins)) < 1e-6


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_what_is_not_a_number_stays_so_and_where_it_is(gpu, name, choice):
    rows, twins = rows_of(gpu, name)
    twins = [[x.float() for x in twin] for twin in twins]  # in float64 a large square would be finite
    for update in range(3):
        gradients = [gradient_of(row[0], update) for row in rows]
        for value, gradient in zip((torch.nan, torch.inf, -torch.inf, 1e30), gradients[:4], strict=True):
            gradient[: 1 if update == 1 else 0] = value
        with np.errstate(all="ignore"):  # the interpreter's numpy says so of what is not a number
            step(gpu, name, rows, twins, [VARIANTS[name][0](update)] * len(rows), choice, gradients)
    assert rows[0][0].isnan().all()
    for row, twin in zip(rows, twins, strict=True):
        torch.testing.assert_close(row, twin, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_what_lies_beyond_the_end_of_a_row_is_nothing_to_it(name, choice, monkeypatch):
    """Triton leaves open what a masked load returns there; its interpreter, and its code for today's devices, a 0."""
    gpu = loaded(monkeypatch, interpreted=True)
    gpu.device, gpu.BLOCK = "cpu", 16
    builder = triton.runtime.interpreter.interpreter_builder
    load = builder.create_masked_load

    def loads_ones(pointers, mask, other, *options):
        found = load(pointers, mask, other, *options)
        if other is None:
            found.data = np.where(mask.data, found.data, np.ones_like(found.data))
        return found

    monkeypatch.setattr(builder, "create_masked_load", loads_ones)
    rows, twins = rows_of(gpu, name)
    for update in range(2):
        gradients = [gradient_of(row[0], update) for row in rows]
        step(gpu, name, rows, twins, [VARIANTS[name][0](update)] * len(rows), choice, gradients)
    assert apart(tensors(rows), tensors(twins)) < 1e-6


@pytest.mark.parametrize("name", TWINS)
def test_many_rows_are_one_step_each_and_none_is_none(gpu, name):
    rows = [[torch.rand(index % 4, device=gpu.device) for _ in range(TWINS[name][1] + 2)] for index in range(150)]
    twins = [[x.double() for x in row] for row in rows]
    step(gpu, name, rows, twins, [VARIANTS[name][0](0)] * len(rows), True, [row[1].clone() for row in rows])
    assert apart(tensors(rows), tensors(twins)) < 1e-6
    gpu.run(name, [], [])
    gpu.run(name, rows[:1], [VARIANTS[name][0](0)])


LIBRARY = {
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw upward": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "maximize": True, "betas": (0.8, 0.95)}),
    "adam with a penalty": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    "adam upward": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd dampened": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd of nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_cautious_step_is_the_reference(gpu, name):
    cls, params = LIBRARY[name]
    least = 0.6 if params.get("maximize") else 0.0
    is_adam = cls is not torch.optim.SGD
    ours = parameters(gpu)
    theirs = [p.double() for p in ours]
    states = [[torch.zeros_like(p) for _ in range(1 + is_adam)] for p in ours]
    reference = CautiousOptimizer(cls(theirs, **params), min_mean=least)
    options = {name: value for name, value in params.items() if name != "nesterov"} | {"caution": (least, 1e-8)}
    for update in range(UPDATES):
        gradients = [gradient_of(p, update, index) for index, p in enumerate(ours)]
        rows = [[p, gradient, *state] for p, gradient, state in zip(ours, gradients, states, strict=True)]
        numbers = adam(update, **options, adamw=cls is torch.optim.AdamW) if is_adam else sgd(update, **options)
        step_name = "cautious_adam" if is_adam else "cautious_sgd"
        gpu.run(step_name, rows, [numbers] * len(rows), params.get("nesterov", False))
        for p, gradient in zip(theirs, gradients, strict=True):
            p.grad = gradient.double()
        reference.step()
    assert apart(ours, theirs) < 1e-6


def radam_of_library(group):
    """Return the numbers of the update that a group of the library's has just taken, and whether it adapted."""
    (beta1, beta2), step, lr = group["betas"], group["k"], group["scheduled_lr"]
    weight = step ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
    share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
    correction = 1 - beta2**step
    own_lr = lr * (beta1 * (1 - share) - 1)
    adapts = 2 / (1 - beta2) - 1 - 2 * step * (1 - correction) / correction > 4
    return [beta2, 1 - beta2, correction, group["eps"], group["weight_decay"], share, own_lr, lr], adapts


@pytest.mark.parametrize("params", [{"lr": 0.05}, {"lr": 0.05, "silent_sgd_phase": False, "weight_decay": 0.1, "r": 1}])
def test_a_schedule_free_step_is_the_librarys(gpu, params):
    ours = parameters(gpu)
    theirs = [p.double() for p in ours]
    states = [[torch.zeros_like(p), p.clone()] for p in ours]
    library = schedulefree.RAdamScheduleFree(theirs, **params)
    library.train()
    adapted = []
    for update in range(100 if gpu.device == "cuda" else 40):
        gradients = [gradient_of(p, update, index) for index, p in enumerate(ours)]
        for p, gradient in zip(theirs, gradients, strict=True):
            p.grad = gradient.double()
        library.step()
        numbers, adapts = radam_of_library(library.param_groups[0])
        rows = [[p, gradient, *state] for p, gradient, state in zip(ours, gradients, states, strict=True)]
        gpu.run("schedule_free_radam", rows, [numbers] * len(rows), adapts)
        adapted.append(adapts)
    assert len(set(adapted)) == 2
    assert apart(ours, theirs) < 1e-6
    assert apart([z for _, z in states], [library.state[p]["z"] for p in theirs]) < 1e-6


@pytest.mark.parametrize("name", TWINS)
def test_a_step_is_checked_by_taking_it(gpu, name, monkeypatch):
    device = torch.device(gpu.device)
    gpu.check_step(name, device)
    gpu.check_step.cache_clear()
    monkeypatch.setattr(gpu, "_kernel", None)
    with pytest.raises(OSError, match=f"^Triton cannot compile {name} for {device}: "):
        gpu.check_step(name, device)


def test_tables_are_made_once_for_the_same_sizes_and_not_kept_forever(gpu):
    rows = [[torch.ones(3, device=gpu.device) for _ in range(3)] for _ in range(2)]
    for some in (rows, rows, rows[:1], rows):
        gpu.run("cautious_sgd", some, [sgd(0)] * len(some))
    found = gpu._blocks.cache_info()
    assert (found.misses, found.hits) == (2, 2)
    assert found.maxsize is not None


@pytest.mark.filterwarnings("ignore")  # of the compiler's, when it is imported
def test_a_compiled_caller_leaves_the_step_as_it_is(gpu):
    torch._dynamo.reset()
    found = []
    for wrap in (lambda call: call, lambda call: torch.compile(call, backend="eager")):
        row = [gradient_of(torch.ones(20, device=gpu.device), update) for update in range(3)]
        call = wrap(lambda row: gpu.run("cautious_sgd", [row], [sgd(1)], True))
        for _ in range(2):
            call(row)
        found.append(row)
    assert all(map(torch.equal, *found))


class Chip:
    """A driver for a device that is not here: enough to compile for it."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", self.capability, 32)


class Compiled:
    """A kernel that is compiled for what it is called with, and not launched."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.made = []

    def __getitem__(self, grid):
        return lambda *args, **options: self.made.append(self.kernel.warmup(*args, grid=grid, **options))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_a_step_compiles_for_devices_that_are_not_here(name, choice, capability, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(type(triton.runtime.driver), "active", Chip(capability))
    module = loaded(monkeypatch, interpreted=False)
    kernel = module._kernel
    row = [torch.rand(5000) for _ in range(TWINS[name][1] + 2)]
    for some in (row, [unaligned(x) for x in row]):
        module._kernel = Compiled(kernel)
        module.run(name, [some], [VARIANTS[name][0](0)], choice)
        assert len(module._kernel.made) == len(module.STEPS[name]) <= 2
        for compiled in module._kernel.made:
            ptx = compiled.asm["ptx"]
            assert f".target sm_{capability}" in ptx
            assert compiled.asm["cubin"]
            assert not any(word in ptx for word in ("fma.", ".approx", ".full", ".ftz"))  # rounded as IEEE 754 says
            assert ("ld.global.v4" in ptx) == (some is row)
        assert any("v4" in word for word in ptx.split() if word.startswith("st.global")) == (some is row)


def test_the_optimizers_are_imported_without_triton():
    check = "import sys, optimizer; assert not {'triton', 'optimizer.kernels.gpu'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
