"""Fast steps against their slow twins: the reference for cautious ones, the library's own for schedule-free RAdam."""

import copy
import pickle

import pytest
import schedulefree
import torch
from conftest import NO_COMPILER
from sample_steps import CAUTIOUS, RADAM, WITH_KERNELS, Contiguous, Shapes, apart, cautious, trained
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, CautiousOptimizer
from optimizer.kernels import blocks, registry
from optimizer.kernels.registry import KERNELS, implementation_of
from optimizer.kernels.stepping import by_group
from optimizer.scheduling.kernel import Kernel


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)


@pytest.mark.parametrize("name", CAUTIOUS)
def test_in_blocks_a_cautious_step_is_the_reference(name):
    reference, slow = cautious(name, "single", torch.float64)
    exact, fast = cautious(name, "auto", torch.float64)
    assert slow.kernel is None
    assert fast.kernel is not None
    assert apart(exact, reference) < 1e-12
    assert fast.state_dict()["state"].keys() == slow.state_dict()["state"].keys()
    for ours, theirs in zip(fast.state.values(), slow.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(list(ours.values()), list(theirs.values()))
    single, _ = cautious(name, "auto", torch.float32)
    assert apart(single, reference) < 1e-6


@NO_COMPILER
@pytest.mark.parametrize("implementation", ["auto", "compiled"])
@pytest.mark.parametrize("key", ["adamw", "sgd"])
def test_small_gradients_agree_too(key, implementation):
    """The product of gradient and average would be 0, and the step of the others twice as large."""
    p = nn.Parameter(torch.zeros(4))
    params = {"lr": 1.0, "use_cautious_optimizer": True, "implementation": implementation, "grad_clip_norm": None}
    params |= {"momentum": 0.9} if key == "sgd" else {"weight_decay": 0.0}
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params).build([p])
    p.grad = torch.tensor([1.0, 1.0, 1e-25, 1e-25])
    optimizer.step()
    assert p[0].item() == pytest.approx(-1.0)


@pytest.mark.parametrize("key", ["adamw", "sgd"])
def test_a_late_group_of_several_types_is_left_to_the_class(key):
    moved = []
    for implementation in ("auto", "single"):
        parameters = [nn.Parameter(torch.ones(100, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
        params = {"lr": 0.1, "use_cautious_optimizer": True, "implementation": implementation, "grad_clip_norm": None}
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params).build([nn.Parameter(torch.ones(3))])
        optimizer.add_param_group({"params": parameters})
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        moved.append(parameters)
    for fast, slow in zip(*moved, strict=True):
        torch.testing.assert_close(fast, slow)


def factory_of(kernel):
    """Return the first factory for the kernel's class that needs no parameters."""
    for factory in OPTIMIZER_BUILDER_REGISTRY.values():
        is_its = issubclass(getattr(factory, "optimizer_class", object), kernel.classes[0])
        if is_its and not any(field.is_required() for field in factory.model_fields.values()):
            return factory
    raise AssertionError(f"no key builds {kernel.classes[0].__name__}")


EXACT = [kernel for kernel in KERNELS if kernel.shown_as != "compiled" and not kernel.cautious]


@pytest.mark.parametrize("kernel", EXACT, ids=lambda kernel: kernel.name)
def test_a_kernel_that_is_not_compiled_equals_the_class_bit_for_bit(kernel):
    options = {"grad_clip_norm": None} | ({"lr": 0.1, "momentum": 0.9} if kernel.classes[0] is torch.optim.SGD else {})
    options |= {"amsgrad": True} if kernel.name == "fused" else {}
    weights = {}
    for steps in ("kernel", "class"):
        module = Contiguous(torch.float32)
        optimizer = factory_of(kernel)(**options).build(module)
        assert optimizer.kernel is kernel
        if steps == "class":
            optimizer.kernel = None
        for update in range(10):
            generator = torch.Generator().manual_seed(update)
            for p in module.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        weights[steps] = [*module.parameters()]
    assert all(map(torch.equal, *weights.values()))


@pytest.mark.parametrize("params", RADAM)
def test_in_blocks_schedule_free_radam_is_the_librarys_to_the_bit(params):
    ours, optimizer = trained("schedule_free_radam", params, torch.float32, updates=100)
    theirs, library = trained(schedulefree.RAdamScheduleFree, params, torch.float32, updates=100)
    assert optimizer.kernel is not None
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    for mine, its in zip(optimizer.param_groups, library.param_groups, strict=True):
        assert {name: mine[name] for name in its if name != "params"} == {
            name: its[name] for name in its if name != "params"
        }
    optimizer.eval()
    library.eval()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_the_gradients_are_left_as_they_are():
    module, optimizer = trained("schedule_free_radam", {"lr": 0.05, "weight_decay": 0.1}, torch.float32)
    before = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    optimizer.step()
    assert all(map(torch.equal, before, (p.grad for p in module.parameters() if p.grad is not None)))


def test_a_step_in_eval_mode_is_refused():
    _, optimizer = trained("schedule_free_radam", {}, torch.float32, updates=3)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"Call train\(\)"):
        optimizer.step()


@pytest.mark.parametrize(
    ("key", "params", "dtype"),
    [
        ("adamw", {"amsgrad": True}, torch.float32),
        ("adamw", {"implementation": "single"}, torch.float32),
        ("adamw", {"implementation": "foreach"}, torch.float32),
        ("adamw", {"implementation": "fused"}, torch.float32),
        ("rmsprop", {}, torch.float32),
    ],
)
def test_what_no_kernel_fits_takes_the_reference(key, params, dtype):
    module, optimizer = trained(key, {**params, "use_cautious_optimizer": True}, dtype, updates=2)
    assert optimizer.kernel is None
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("implementation", ["auto", "compiled"])
@pytest.mark.parametrize(("key", "params"), WITH_KERNELS)
def test_parameters_that_are_laid_out_anew_take_their_state_along(key, params, implementation):
    trained_ones = []
    for one in (implementation, "auto" if key == "schedule_free_radam" else "single"):
        torch.manual_seed(0)
        module = nn.Conv2d(2, 3, 4)
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, implementation=one, **params).build(module)
        for update in range(6):
            if update == 3:
                module.to(memory_format=torch.channels_last)
            module.zero_grad()
            module(torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(update))).square().mean().backward()
            optimizer.step()
        trained_ones.append(module)
    assert apart(*trained_ones) < 1e-6


@pytest.mark.parametrize("caution", [True, False])
def test_sparse_gradients_are_refused(caution):
    module = nn.Embedding(5, 3, sparse=True)
    params = {"use_cautious_optimizer": caution, "grad_clip_norm": None}
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**params).build(module)
    module(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()


@pytest.mark.parametrize(
    ("caution", "change"),
    [(True, "amsgrad"), (False, "amsgrad"), (True, "late group"), (False, "late group"), (True, "dtype")],
)
def test_what_changes_after_the_optimizer_was_built_is_heeded(caution, change):
    trained_ones = []
    for implementation in ("auto", "single"):
        module, late = Contiguous(torch.float32), nn.Parameter(torch.ones(70))
        params = {"lr": 0.01, "betas": [0.9, 0.9], "use_cautious_optimizer": caution, "implementation": implementation}
        optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**params).build(module)
        if change == "amsgrad":
            optimizer.param_groups[0]["amsgrad"] = True
        elif change == "late group":
            optimizer.add_param_group({"params": [("late", late)], "amsgrad": True})
        else:
            module.to(torch.bfloat16)
        for update in range(40):
            for p in [*module.parameters(), late]:
                generator = torch.Generator().manual_seed(update)
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) * (100 if update < 10 else 1)
            optimizer.step()
        trained_ones.append([*module.parameters(), late])
    for fast, slow in zip(*trained_ones, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0.02 if change == "dtype" else 1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using backward")  # of the cycle that this test makes
def test_clipping_leaves_no_graph():
    p = nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.1, grad_clip_norm=0.1).build([p])
    (p**2).sum().backward(create_graph=True)
    optimizer.step()
    assert not optimizer.grad_norm.requires_grad


@pytest.mark.parametrize("key", ["adamw", "sgd"])
def test_parameters_without_elements_are_left_alone(key):
    parameters = [nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(4))]
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, use_cautious_optimizer=True).build(parameters)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.all(parameters[1] < 1)


def test_an_optimizer_made_cautious_stays_so_in_a_copy():
    module = Contiguous(torch.float32)
    optimizer = CautiousOptimizer(OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, grad_clip_norm=None).build(module))
    assert implementation_of(optimizer) == "fused + reference"
    module_copy, copied = copy.deepcopy((module, optimizer))
    for one, its in ((module, optimizer), (module_copy, copied)):
        for update in range(5):
            for p in one.parameters():
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(update))
            its.step()
    assert all(map(torch.equal, module.parameters(), module_copy.parameters()))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_copies_of_an_optimizer_keep_its_kernel(kernel):
    options = {"implementation": kernel.implementations[0], "use_cautious_optimizer": kernel.cautious}
    options |= {"amsgrad": True} if kernel.name == "fused" else {}
    options |= {"lr": 0.1, "momentum": 0.9} if kernel.classes[0] is torch.optim.SGD else {}
    if kernel.shown_as == "compiled" and NO_COMPILER.args[0]:
        pytest.skip("needs a C compiler")
    optimizer = factory_of(kernel)(**options).build([nn.Parameter(torch.ones(3))])
    assert optimizer.kernel is kernel
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.kernel is kernel
        assert again.step_options == optimizer.step_options


def test_a_kernel_of_another_class_needs_a_row_and_nothing_else(monkeypatch):
    def step_group(optimizer, group, parameters):
        for p in parameters:
            p.add_(p.grad.sign(), alpha=-group["lr"])

    def unsupported(optimizer, group):
        return "it does not support centered" if group["centered"] else None

    row = Kernel("rmsprop", "blocks", (torch.optim.RMSprop,), ("compiled",), by_group(step_group), unsupported, ())
    monkeypatch.setattr(registry, "KERNELS", (*KERNELS, row))
    p = nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["rmsprop"](lr=0.1, implementation="compiled").build([p])
    p.grad = torch.tensor([3.0, -3.0])
    optimizer.step()
    assert p.tolist() == pytest.approx([0.9, 1.1])
    assert optimizer.scheduler.last_epoch == 1
    assert implementation_of(pickle.loads(pickle.dumps(optimizer))) == "blocks"
    for key, options, reason in (
        ("rmsprop", {"centered": True}, "it does not support centered"),
        ("adagrad", {}, "there is one for Adam, AdamW, cautious SGD, RAdamScheduleFree and RMSprop"),
    ):
        with pytest.raises(ValueError, match=f"has no compiled one here: {reason}$"):
            OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, implementation="compiled", **options).build([p])


ODD_GRADIENTS = [
    ("adam", {"lr": 0.01}),
    ("adamw", {"lr": 0.01, "amsgrad": True}),
    ("adamw", {"lr": 0.01, "use_cautious_optimizer": True}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("adagrad", {"lr": 0.01}),
]


@pytest.mark.parametrize("switched", [False, True], ids=["all along", "after a load"])
@pytest.mark.parametrize(("key", "params"), ODD_GRADIENTS)
def test_gradients_that_lie_otherwise_in_memory_are_read_by_index(key, params, switched):
    """torch's own fused kernels read them by memory, and step elsewhere without a word."""
    weights = {}
    for implementation in ("single", "fused"):
        p = nn.Parameter(torch.ones(5, 7))
        first, second = (
            OPTIMIZER_BUILDER_REGISTRY[key](**params, implementation=one).build([("p", p)])
            for one in ("single" if switched else implementation, implementation)
        )
        for update in range(6):
            if update == 3:
                second.load_state_dict(first.state_dict())
            p.grad = torch.randn(7, 5, generator=torch.Generator().manual_seed(update)).t()
            (first if update < 3 else second).step()
        weights[implementation] = p.detach()
    torch.testing.assert_close(weights["fused"], weights["single"], rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # torch's, of its own steps
@pytest.mark.parametrize("key", ["sgd", "adagrad"])
def test_sparse_gradients_go_the_way_that_the_class_has_for_them(key):
    weights = []
    for implementation in ("auto", "single"):
        torch.manual_seed(0)
        table = nn.Embedding(9, 4, sparse=True)
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, grad_clip_norm=0, implementation=implementation).build(
            table
        )
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 4, 4])).square().sum().backward()
            optimizer.step()
        weights.append(table.weight.detach())
    assert torch.equal(*weights)


FUSED = [
    ("adamw", {"lr": 0.01, "weight_decay": 0.1}, torch.float32),
    ("adam", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}, torch.float32),
    ("adamw", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}, torch.float64),
    ("adamw", {"lr": 0.01}, torch.bfloat16),
]


@pytest.mark.parametrize(("key", "params", "dtype"), FUSED)
def test_a_fused_step_is_that_of_the_class_to_the_bit(key, params, dtype):
    ours, optimizer = trained(key, {**params, "grad_clip_norm": None}, dtype, made=Contiguous)
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[key]
    theirs, plain = trained(cls, {**params, "fused": True}, dtype, made=Contiguous)
    assert optimizer.kernel is not None
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    for mine, its in zip(optimizer.state.values(), plain.state.values(), strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in its)


def test_groups_that_are_not_alike_are_left_to_the_class():
    module = Shapes(torch.float32)
    module.small.data = module.small.data.double()
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="fused").build(module)
    assert optimizer.kernel.name == "fused"
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()


@pytest.mark.parametrize("caution", [True, False])
@pytest.mark.parametrize("key", ["adamw", "sgd"])
def test_parameters_with_gaps_in_memory_are_left_to_the_class(key, caution):
    fast, slow = (torch.ones(4, 6, dtype=torch.float32) for _ in range(2))
    for base, implementation in ((fast, "auto"), (slow, "single")):
        p = nn.Parameter(base[:, ::2])
        params = {"lr": 0.1, "implementation": implementation, "use_cautious_optimizer": caution}
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params).build([p])
        assert not implementation_of(optimizer).startswith(("blocks", "fused"))
        for update in range(3):
            p.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(update))
            optimizer.step()
    assert torch.equal(fast, slow)
    assert torch.all(fast[:, 1::2] == 1.0)


@NO_COMPILER
@pytest.mark.parametrize("key", ["adamw", "sgd"])
@pytest.mark.parametrize("implementation", ["auto", "compiled"])
def test_a_gradient_that_is_not_a_number_shows(key, implementation):
    p = nn.Parameter(torch.ones(40))
    params = {"lr": 0.1, "grad_clip_norm": None, "use_cautious_optimizer": True, "implementation": implementation}
    optimizer = OPTIMIZER_BUILDER_REGISTRY[key](**params, **({"momentum": 0.9} if key == "sgd" else {})).build([p])
    p.grad = torch.ones(40)
    p.grad[3] = torch.nan
    optimizer.step()
    assert p[3].isnan()


@pytest.mark.parametrize("key", ["sgd", "adam", "adagrad"])
def test_an_overflow_before_the_first_step_leaves_no_state_of_chance(key, monkeypatch):
    """torch's fused SGD makes its momentum buffers before it looks at the overflow, and leaves them as memory was."""
    original = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *given, **options: original(*given, **options).fill_(torch.nan))
    options = {"momentum": 0.9} if key == "sgd" else {}
    moved = []
    for implementation in ("fused", "single"):
        p = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, implementation=implementation, **options).build([p])
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in (torch.inf, 1.0, 2.0):
            scaler.scale((p * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert optimizer.scheduler.last_epoch == 2
        moved.append(p.detach())
    assert torch.equal(*moved) or torch.allclose(*moved, rtol=1e-6)
    assert moved[0].isfinite().all()
