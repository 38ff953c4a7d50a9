"""Cautious steps against Algorithm 1 in float64: every implementation, type of parameter and way to ask for caution."""

import math

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, CautiousOptimizer, StepOptions, scheduled
from optimizer.transforms.cautious import Caution

UPDATES, LR = 4, 0.01
ADAMS = {
    "adamw": {"weight_decay": 0.1},
    "adamw bare": {"weight_decay": 0.0},
    "adamw upward": {"weight_decay": 0.1, "maximize": True, "betas": (0.5, 0.9)},
    "adamw amsgrad": {"weight_decay": 0.0, "amsgrad": True, "betas": (0.6, 0.5)},
    "adam": {"weight_decay": 0.1},
    "adam upward": {"weight_decay": 0.3, "maximize": True},
    "adam amsgrad": {"weight_decay": 0.1, "amsgrad": True, "betas": (0.6, 0.5)},
}
SGDS = {
    "sgd": {},
    "sgd with a penalty": {"weight_decay": 0.3},
    "sgd momentum": {"momentum": 0.9},
    "sgd dampened": {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
    "sgd nesterov": {"momentum": 0.9, "nesterov": True},
    "sgd nesterov upward": {"momentum": 0.8, "nesterov": True, "maximize": True, "weight_decay": 0.1},
}
CASES = ADAMS | SGDS
IMPLEMENTATIONS = ["auto", "single", "foreach", "fused", "compiled"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(40, 7), (5,), ()]


def gradients(update, dtype):
    generator = torch.Generator().manual_seed(update)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def weights(dtype):
    return [p * 0.5 for p in gradients(1000, dtype)]


class Algorithm1:
    """Liang et al. 2024, by the letter, for a parameter; each step is rounded to the parameter's type once."""

    def __init__(self, name, p, lr=LR):
        self.key, self.options, self.lr, self.p = name.split()[0], CASES[name], lr, p
        self.m = self.v = self.largest = torch.zeros_like(p, dtype=torch.float64)
        self.buffer, self.t = None, 0

    def step(self, gradient):
        self.t += 1
        p, options = self.p.double(), self.options
        g = -gradient.double() if options.get("maximize") else gradient.double()
        decay = options.get("weight_decay", 0.0)
        whole = g if self.key == "adamw" else g + decay * p
        u = self._sgd(whole) if self.key == "sgd" else self._adam(whole)
        mask = (u.sign() * g.sign() > 0).double()
        kept = p * (1 - self.lr * decay) if self.key == "adamw" else p
        self.p = (kept - self.lr * u * mask / (mask.mean() + 1e-8)).to(self.p.dtype)

    def _adam(self, g):
        beta1, beta2 = self.options.get("betas", (0.9, 0.999))
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g * g
        self.largest = torch.maximum(self.largest, self.v)
        square = self.largest if self.options.get("amsgrad") else self.v
        return self.m / (1 - beta1**self.t) / ((square / (1 - beta2**self.t)).sqrt() + 1e-8)

    def _sgd(self, g):
        momentum = self.options.get("momentum", 0.0)
        if not momentum:
            return g
        taken = 1 - self.options.get("dampening", 0.0)
        self.buffer = g.clone() if self.buffer is None else momentum * self.buffer + taken * g
        return g + momentum * self.buffer if self.options.get("nesterov") else self.buffer


def by_flag(name, parameters, implementation, lr=LR):
    factory = OPTIMIZER_BUILDER_REGISTRY[name.split()[0]]
    options = {"lr": lr, **CASES[name], "grad_clip_norm": None, "implementation": implementation}
    return factory(**options, use_cautious_optimizer=True).build(parameters)


def by_wrapper(name, parameters, implementation, lr=LR):
    cls = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name.split()[0]]
    switches = {"foreach": {"foreach": True}, "fused": {"fused": True}}.get(implementation, {"foreach": False})
    return CautiousOptimizer(cls(parameters, lr=lr, **CASES[name], **switches))


def by_wrapper_over_ours(name, parameters, implementation, lr=LR):
    factory = OPTIMIZER_BUILDER_REGISTRY[name.split()[0]]
    options = {"lr": lr, **CASES[name], "grad_clip_norm": None, "implementation": implementation}
    return CautiousOptimizer(factory(**options).build(parameters))


def off(p, exact):
    """Return how far apart in last bits of the type, of a number as large as the largest on either side."""
    size = torch.maximum(p.detach().double().abs(), exact.double().abs()).clamp(min=0.05)
    ulp = torch.finfo(p.dtype).eps * 2.0 ** size.log2().floor()
    return float(((p.detach().double() - exact.double()).abs() / ulp).max())


def refused(name, implementation, dtype, way):
    """Return why there is no such implementation of this cautious step, or None."""
    is_sgd, is_half = name.startswith("sgd"), dtype in (torch.bfloat16, torch.float16)
    if implementation == "fused" and way is by_wrapper_over_ours and is_sgd and is_half:
        return "PyTorch's fused SGD does not move parameters in half precision"  # nor does it know of the wrapper
    if implementation != "compiled":
        return None
    if name in ("sgd", "sgd with a penalty"):
        return "has no compiled one here: it does not support SGD without momentum"
    return "has no compiled one here: it does not support amsgrad" if "amsgrad" in name else None


@NO_COMPILER
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_cautious_step_is_algorithm_1_to_rounding(name, implementation, dtype):
    ways = [by_flag]
    if implementation in ("single", "foreach", "fused"):
        ways += [by_wrapper, by_wrapper_over_ours]
    for way in ways:
        parameters = [nn.Parameter(p) for p in weights(dtype)]
        reason = refused(name, implementation, dtype, way)
        if reason is not None:
            with pytest.raises(ValueError, match=reason):
                way(name, parameters, implementation)
            continue
        optimizer = way(name, parameters, implementation)
        twins = [Algorithm1(name, p.detach().clone()) for p in parameters]
        for update in range(UPDATES):
            before = [p.detach().double() for p in parameters]
            given = gradients(update, dtype)
            for p, twin, gradient in zip(parameters, twins, given, strict=True):
                twin.p = p.detach().clone()  # the weights' rounding of the updates before is no error of this one
                p.grad = gradient.clone()
                twin.step(gradient)
            optimizer.step()
            for p, twin, gradient, old in zip(parameters, twins, given, before, strict=True):
                assert off(p, twin.p) <= (8 if dtype in (torch.float32, torch.float64) else 1), (way, update)
                assert torch.equal(p.grad, gradient), "the gradient was written"
                if update == 0 and name.startswith("adam") and not CASES[name]["weight_decay"]:
                    largest = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(float(old.abs().max()) + LR))
                    assert (p.detach().double() - old).abs().max() <= LR * (1 + 2**-8) + largest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", ["auto", "single", "foreach", "fused"])
@pytest.mark.parametrize("lr", [1e-3, 1e-5, 1e-7])
def test_a_first_step_of_large_weights_is_no_larger_than_the_lr(lr, implementation, dtype):
    start = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(10).to(dtype)
    p = nn.Parameter(start.clone())
    optimizer = by_flag("adamw bare", [p], implementation, lr)
    p.grad = torch.randn(2000, generator=torch.Generator().manual_seed(1)).to(dtype)
    optimizer.step()
    moved = (p.detach().double() - start.double()).abs()
    ulp = torch.finfo(dtype).eps * 2.0 ** start.double().abs().log2().floor()
    assert torch.all(moved <= lr * (1 + 2**-8) + ulp)


class WritesGradients(torch.optim.SGD):
    """Works on the gradients in place."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(0.9).add_(p.grad)
                p.grad.copy_(buffer)
                p.data.add_(p.grad, alpha=-group["lr"])


class ReplacesData(torch.optim.SGD):
    """Gives a parameter new memory at each step."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(0.9).add_(p.grad)
                p.data = p.data - group["lr"] * buffer


class Raises(torch.optim.SGD):
    """Moves the first parameter and its state, and then fails at the second step."""

    def step(self, closure=None):
        (group,) = self.param_groups
        for p in group["params"]:
            state = self.state[p]
            state["count"] = state.get("count", 0) + 1
            state.setdefault("sum", torch.zeros_like(p)).add_(p.grad)
            p.data.add_(p.grad, alpha=-group["lr"])
            group["seen"] = state["count"]
            if state["count"] == 2:
                raise ArithmeticError("the second step")


@pytest.mark.parametrize("cls", [WritesGradients, ReplacesData])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_class_that_writes_gradients_or_replaces_data_is_cautious_too(cls, dtype):
    p = nn.Parameter(weights(dtype)[0])
    memory = p.data_ptr()
    optimizer = CautiousOptimizer(cls([p], lr=LR))
    buffer, exact = torch.zeros(SHAPES[0], dtype=torch.float64), p.detach().clone()
    for update in range(4):
        g = gradients(update, dtype)[0]
        p.grad = g.clone()
        optimizer.step()
        buffer = 0.9 * buffer + g.double()
        mask = (buffer * g.double() > 0).double()
        exact = (exact.double() - LR * buffer * mask / (mask.mean() + 1e-8)).to(dtype)
        assert off(p, exact) <= 2
        exact = p.detach().clone()
        assert torch.equal(p.grad, g)
    assert p.data_ptr() == memory


def test_a_step_that_raises_leaves_everything_as_it_was():
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer = CautiousOptimizer(Raises(parameters, lr=LR))
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    weights_before = [p.detach().clone() for p in parameters]
    state_before = [{name: value + 0 for name, value in optimizer.state[p].items()} for p in parameters]
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="the second step"):
            optimizer.step()
        assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, parameters))
        assert optimizer.param_groups[0]["seen"] == 1
        assert all(map(torch.equal, weights_before, parameters))
        for p, old in zip(parameters, state_before, strict=True):
            assert optimizer.state[p]["count"] == old["count"] == 1
            assert torch.equal(optimizer.state[p]["sum"], old["sum"])


@pytest.mark.parametrize("key", ["rmsprop", "nadam", "adamax", "radam", "pytorch_optimizer.Lion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_of_other_classes_are_theirs_in_float64_masked(key, dtype):
    p, plain = (nn.Parameter(weights(kind)[0].to(kind)) for kind in (dtype, torch.float64))
    options = {"lr": LR, "grad_clip_norm": None}
    cautious = OPTIMIZER_BUILDER_REGISTRY[key](**options, use_cautious_optimizer=True).build([p])
    exact = OPTIMIZER_BUILDER_REGISTRY[key](**options).build([plain])
    for update in range(3):
        plain.data.copy_(p.data)
        p.grad = gradients(update, dtype)[0]
        plain.grad = p.grad.double()
        before = p.detach().double()
        cautious.step()
        exact.step()
        u = before - plain.detach()
        mask = (u.sign() * p.grad.double().sign() > 0).double()
        assert off(p, (before - u * mask / (mask.mean() + 1e-8)).to(dtype)) <= 8
        for state in cautious.state.values():
            assert all(value.dtype == torch.float32 for name, value in state.items() if torch.is_tensor(value))


def test_without_a_coordinate_that_agrees_nothing_moves():
    for key, options in (("adamw", {"weight_decay": 0.0}), ("sgd", {"momentum": 0.9})):
        for implementation in ("auto", "single"):
            for eps in (1e-8, 1e-45, 5e-324):
                p = nn.Parameter(torch.zeros(6))
                factory = OPTIMIZER_BUILDER_REGISTRY[key](
                    lr=1.0, use_cautious_optimizer=True, cautious_eps=eps, implementation=implementation,
                    grad_clip_norm=None, **options,
                )  # fmt: skip
                optimizer = factory.build([p])
                p.grad = torch.ones(6)
                optimizer.step()
                before = p.detach().clone()
                p.grad = torch.full((6,), -0.1)
                optimizer.step()
                assert torch.equal(p, before), (key, implementation, eps)


def test_what_cannot_be_cautious_is_refused_when_it_is_built():
    complex_one = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"cannot be made cautious over parameters of torch\.complex64"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](use_cautious_optimizer=True).build([complex_one])
    with pytest.raises(ValueError, match=r"cannot be made cautious over parameters of torch\.complex64"):
        CautiousOptimizer(torch.optim.SGD([complex_one], lr=0.1))

    class Keeps(torch.optim.SGD):
        def __init__(self, params, lr=0.1):
            super().__init__(params, lr=lr)
            self.flat = [p for group in self.param_groups for p in group["params"]]

    with pytest.raises(ValueError, match="keeps parameters in its attribute flat"):
        CautiousOptimizer(Keeps([nn.Parameter(torch.zeros(3))]))

    class OnlyFloat32(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(torch.zeros_like(p, dtype=torch.float32).lerp_(p.grad, 0.1))

    OnlyFloat32.__module__ = "a.library"
    with pytest.raises(ValueError, match="OnlyFloat32 fails to step in float64: RuntimeError: expected dtype"):
        CautiousOptimizer(OnlyFloat32([nn.Parameter(torch.zeros(3))]))

    OnlyFloat32.embed = lambda self: None  # a name that the mixin has too
    mixed = scheduled(OnlyFloat32)([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="OnlyFloat32 fails to step in float64: RuntimeError: expected dtype"):
        mixed.embed(SCHEDULE_REGISTRY["constant"](), StepOptions(caution=Caution()))


@pytest.mark.parametrize("key", ["sgd", "adagrad"])
def test_sparse_gradients_are_told_by_the_name_of_the_option(key):
    table, other = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.ones(3))
    factory = OPTIMIZER_BUILDER_REGISTRY[key](use_cautious_optimizer=True, grad_clip_norm=None)
    optimizer = factory.build([other, table.weight])
    (table(torch.tensor([1, 2])) * other).sum().backward()
    with pytest.raises(RuntimeError, match=r"use_cautious_optimizer: .* does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(other, torch.ones(3))
    assert optimizer.scheduler.last_epoch == 0
