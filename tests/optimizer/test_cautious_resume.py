"""Cautious training of half-precision parameters, saved and resumed: the state is float32, and stays so."""

import copy
import io
import pickle

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    CautiousOptimizer,
    load_named_state,
    load_optimizer_state,
    named_state,
    save_optimizer_state,
)


class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"matrix": (9, 4), "bias": (3,), "scalar": ()}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))


def built(module, key, implementation):
    options = {"momentum": 0.9} if key == "sgd" else {}
    factory = OPTIMIZER_BUILDER_REGISTRY[key](
        lr=0.01, use_cautious_optimizer=True, implementation=implementation, grad_clip_norm=None, **options
    )
    return factory.build(module)


def train(module, optimizer, updates):
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator).mul(1e-3).to(p.dtype)
        optimizer.step()


def everything(module, optimizer):
    return [t for p in module.parameters() for t in (p, *(v for _, v in sorted(optimizer.state[p].items())))]


def by_state_dict(module, optimizer, fresh, folder):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def by_name(module, optimizer, fresh, folder):
    load_named_state(fresh, copy.deepcopy(named_state(optimizer)))
    return fresh


def by_files(module, optimizer, fresh, folder):
    save_optimizer_state(optimizer, folder)
    return load_optimizer_state(fresh, folder)


def by_pickle(module, optimizer, fresh, folder):
    twin, copied = pickle.loads(pickle.dumps((module, optimizer)))
    module.__dict__["_parameters"] = twin._parameters
    return copied


@pytest.mark.parametrize("resumed", [by_state_dict, by_name, by_files, by_pickle])
@pytest.mark.parametrize("implementation", ["auto", "single", "foreach", "fused"])
@pytest.mark.parametrize("key", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_resumed_run_is_the_whole_one_bit_for_bit(key, implementation, dtype, resumed, tmp_path):
    if key == "rmsprop" and implementation == "fused":
        with pytest.raises(ValueError, match="RMSprop has no fused one"):
            built(Net(dtype), key, implementation)
        return
    whole, half = Net(dtype), Net(dtype)
    uninterrupted, first = (built(module, key, implementation) for module in (whole, half))
    train(whole, uninterrupted, range(6))
    train(half, first, range(3))
    fresh_module = Net(dtype)
    fresh_module.load_state_dict(half.state_dict())
    fresh = built(fresh_module, key, implementation)
    module = half if resumed is by_pickle else fresh_module
    fresh = resumed(half, first, fresh, tmp_path)
    train(module, fresh, range(3, 6))
    ours, others = everything(module, fresh), everything(whole, uninterrupted)
    for one, other in zip(ours, others, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert {t.dtype for t in ours} == {dtype, torch.float32}


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.NAdam])
def test_a_plain_optimizer_made_cautious_resumes_bit_for_bit(cls):
    whole, half, fresh = (Net(torch.bfloat16) for _ in range(3))
    uninterrupted, first, second = (CautiousOptimizer(cls(m.parameters(), lr=0.01)) for m in (whole, half, fresh))
    train(whole, uninterrupted, range(6))
    train(half, first, range(3))
    fresh.load_state_dict(half.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(fresh, second, range(3, 6))
    assert all(map(torch.equal, everything(fresh, second), everything(whole, uninterrupted)))


def test_a_state_in_half_precision_is_taken_by_every_implementation():
    """As a plain optimizer of PyTorch's saves it."""
    for implementation in ("auto", "single"):
        module = Net(torch.bfloat16)
        plain = torch.optim.AdamW(module.parameters(), lr=0.01)
        train(module, plain, range(3))
        state = plain.state_dict()
        state["scheduler"] = {"last_epoch": 3}
        optimizer = built(module, "adamw", implementation)
        optimizer.load_state_dict(state)
        train(module, optimizer, range(3, 5))
        assert all(p.isfinite().all() for p in module.parameters())
        assert {value.dtype for state in optimizer.state.values() for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("resumed", [by_state_dict, by_name, by_files])
@pytest.mark.parametrize("implementation", ["auto", "single", pytest.param("compiled", marks=NO_COMPILER)])
@pytest.mark.parametrize("key", ["adamw", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_state_of_a_float64_model_continues_in_a_shorter_type_as_float32(key, implementation, dtype, resumed, tmp_path):
    double, short = Net(torch.float64), Net(dtype)
    optimizer = built(double, key, "single")
    train(double, optimizer, range(2))
    fresh = resumed(double, optimizer, built(short, key, implementation), tmp_path)
    saved = {p: optimizer.state[q] for p, q in zip(short.parameters(), double.parameters(), strict=True)}
    for p, entries in saved.items():
        for name in entries.keys() - {"step"}:
            assert fresh.state[p][name].dtype == torch.float32
            assert torch.equal(fresh.state[p][name], entries[name].float())
    average = "exp_avg" if key == "adamw" else "momentum_buffer"
    before = fresh.state[short.matrix][average].clone()
    train(short, fresh, [2])  # a short type may not show so small a step
    assert not torch.equal(fresh.state[short.matrix][average], before)


def test_a_step_that_the_scaler_skips_makes_no_state_and_a_scheduler_of_torchs_still_sees_the_steps(recwarn):
    module = Net(torch.float32)
    optimizer = CautiousOptimizer(torch.optim.AdamW(module.parameters(), lr=0.01, fused=True))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in (True, False):
        before = [p.detach().clone() for p in module.parameters()]
        scaler.scale(sum(p.square().sum() for p in module.parameters())).backward()
        if overflow:
            module.matrix.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert all(map(torch.equal, before, module.parameters())) is overflow
        assert bool(optimizer.state) is not overflow
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.005
    assert not [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)]


def test_a_wrapper_around_an_optimizer_that_has_a_scheduler_keeps_it_and_its_hooks():
    p = nn.Parameter(torch.ones(4))
    base = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 0.5**step)
    optimizer, seen = CautiousOptimizer(base), []
    optimizer.register_step_pre_hook(lambda *_: seen.append(p[0].item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(p[0].item()))

    def closure():
        optimizer.zero_grad()
        p.sum().backward()
        return "loss"

    assert optimizer.step(closure) == "loss"
    assert seen == [1.0, pytest.approx(0.9)]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    with pytest.raises(ValueError, match="cautious already"):
        CautiousOptimizer(optimizer)
