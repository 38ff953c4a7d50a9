"""Clipping inside the step."""

import pickle

import pytest
import torch
from sample_steps import Shapes
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer import transforms as clipping


def backward(module):
    module(torch.ones(3, 4)).square().mean().backward()


def norm_after(module, optimizer, *arguments):
    seen = []
    handle = optimizer.register_step_post_hook(
        lambda *_: seen.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]))
    )
    optimizer.step(*arguments)
    handle.remove()
    return float(seen[0])


def test_clipping_scales_the_joint_norm_down():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=0.1).build(module)
    backward(module)
    assert norm_after(module, optimizer) == pytest.approx(0.1, rel=1e-4)


def test_clipping_leaves_small_gradients_and_none_alone():
    for norm in (1e6, 0, None):
        module = nn.Linear(4, 2)
        optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=norm).build(module)
        backward(module)
        before = module.weight.grad.clone()
        optimizer.step()
        assert torch.equal(module.weight.grad, before)


def test_clipping_a_closures_gradients_are_clipped():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=0.1).build(module)

    def closure():
        backward(module)
        return 1.0

    assert norm_after(module, optimizer, closure) == pytest.approx(0.1, rel=1e-4)


def test_clipping_scaled_gradients_of_a_fused_step_are_clipped_at_their_scale():
    """A fused step under GradScaler gets the gradients before they are unscaled."""
    results = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        module = nn.Linear(4, 2)
        factory = OPTIMIZER_BUILDER_REGISTRY["adam"](grad_clip_norm=1e-3, eps=1.0, implementation="fused")
        optimizer = factory.build(module)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(module(torch.ones(3, 4)).square().mean()).backward()
        scaler.step(optimizer)
        results.append(optimizer.state[module.weight]["exp_avg"].clone())
    torch.testing.assert_close(*results, rtol=1e-3, atol=0)
    assert results[0].norm() > 0


def test_clipping_survives_a_copy():
    module = nn.Linear(4, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=0.1).build(module)
    module, optimizer = pickle.loads(pickle.dumps((module, optimizer)))
    backward(module)
    assert norm_after(module, optimizer) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.125, 1.0, 100.0, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clipping_is_torchs_to_the_bit(dtype, scale):
    ours, theirs = Shapes(dtype), Shapes(dtype)
    for module in (ours, theirs):
        torch.manual_seed(1)
        for p in module.parameters():
            p.grad = (torch.randn(p.shape) * scale).to(dtype)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](lr=0.0, grad_clip_norm=3.0).build(ours)
    optimizer.step()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 3.0)
    torch.testing.assert_close(optimizer.grad_norm, norm, rtol=0, atol=0, equal_nan=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0, equal_nan=True)


class Twins:
    """A sparse and a dense embedding of the same values, asked for the same rows, some twice, and a layer on top."""

    def __init__(self, key, **options):
        self.modules = []
        for sparse in (True, False):
            torch.manual_seed(4)
            parts = {"table": nn.Embedding(7, 3, sparse=sparse)} | (
                {} if key == "sparseadam" else {"top": nn.Linear(3, 2)}
            )
            self.modules.append(nn.ModuleDict(parts))
        self.sparse, self.dense = (OPTIMIZER_BUILDER_REGISTRY[key](**options).build(module) for module in self.modules)

    def backward(self):
        for module in self.modules:
            found = module["table"](torch.tensor([1, 4, 4, 4, 6]))
            (module["top"](found) if "top" in module else found).square().sum().mul(30.0).backward()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")  # torch's Adagrad
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adagrad", {"grad_clip_norm": 0.5}),
        ("sgd", {"weight_decay": 0.0}),
    ],
)
def test_sparse_gradients_are_clipped_like_the_dense_ones_they_stand_for(key, options):
    twins = Twins(key, lr=0.1, **options)
    for _ in range(3):
        twins.backward()
        for optimizer in (twins.sparse, twins.dense):
            optimizer.step()
            optimizer.zero_grad()
        assert float(twins.sparse.grad_norm) == pytest.approx(float(twins.dense.grad_norm), rel=1e-5)
        assert float(twins.dense.grad_norm) > 0.5
        for ours, dense in zip(*(module.parameters() for module in twins.modules), strict=True):
            torch.testing.assert_close(ours, dense)


def test_a_class_for_sparse_gradients_alone_is_clipped():
    clipped, free = (Twins("sparseadam", lr=0.1, **options) for options in ({"grad_clip_norm": 0.25}, {}))
    for twins in (clipped, free):
        twins.backward()
        twins.sparse.step()
    moments = [twins.sparse.state[twins.modules[0]["table"].weight]["exp_avg"] for twins in (clipped, free)]
    factor = 0.25 / float(clipped.sparse.grad_norm)
    torch.testing.assert_close(moments[0], moments[1] * factor, rtol=1e-4, atol=1e-7)


def test_a_joint_norm_is_of_everything():
    rows, values = torch.tensor([[0, 2, 2]]), torch.tensor([[3.0], [1.0], [3.0]])
    sparse = torch.sparse_coo_tensor(rows, values, (4, 1))
    gradients = [
        sparse,
        torch.full((2, 2), 2.0),
        torch.full((4,), 4.0, dtype=torch.float64),
        torch.tensor(2.0).bfloat16(),
    ]
    expected = (9 + 16 + 16 + 64 + 4) ** 0.5
    assert float(clipping.total_norm(gradients)) == pytest.approx(expected)
    assert float(clipping.clip_to_norm(gradients, expected / 2)) == pytest.approx(expected)
    assert float(clipping.total_norm(gradients)) == pytest.approx(expected / 2)
    assert not sparse.is_coalesced()
    assert float(clipping.total_norm([])) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_factor_is_torchs_to_the_bit(dtype):
    torch.manual_seed(0)
    norms = [*torch.rand(200, dtype=torch.float64).mul(12).sub(6).exp().to(dtype), *torch.tensor(ODD, dtype=dtype)]
    for norm in norms:
        for max_norm in (0.1, 0.37, 1.0, 10.0, 1e39, 1e-46, float(norm), float(norm) * 0.75):
            expected = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
            factor = clipping.clip_factor(norm, max_norm)
            factor = torch.ones((), dtype=dtype) if factor is None else factor
            torch.testing.assert_close(factor, expected, rtol=0, atol=0, equal_nan=True)


ODD = [0.0, 1e-45, 0.999999, 1.0, 1e38, 3.3e38, float("inf"), float("nan")]
