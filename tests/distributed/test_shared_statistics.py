"""Layers with statistics over a batch, split over two processes, equal those of one process in float64."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from worlds import own_world

from trainer import ConfigError
from trainer.distributed.batch_norm import share_statistics
from trainer.distributed.sums import mean_over


class Activated(nn.BatchNorm2d):
    """As timm's: a forward pass that ends in an activation."""

    def forward(self, x):
        return super().forward(x).relu()


class Centred(nn.BatchNorm1d):
    """Its mean is not that of torch's function."""

    def forward(self, x):
        return x - x.mean(0)


LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(3), (3,)),
    "1d over time": (lambda: nn.BatchNorm1d(3, momentum=0.3), (3, 5)),
    "2d, without bias": (lambda: nn.BatchNorm2d(3, bias=False), (3, 2, 4)),
    "2d, not affine": (lambda: nn.BatchNorm2d(3, affine=False), (3, 2, 4)),
    "3d, cumulative": (lambda: nn.BatchNorm3d(3, momentum=None), (3, 2, 1, 2)),
    "without running statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (3,)),
    "lazy": (nn.LazyBatchNorm2d, (3, 2, 2)),
    "with its own forward": (lambda: Activated(3), (3, 2, 2)),
    "of each sample": (lambda: nn.InstanceNorm1d(3, track_running_stats=True, affine=True), (3, 4)),
}
TOLERANCE = {"rtol": 0, "atol": 1e-11}


def layer_of(name):
    make, shape = LAYERS[name]
    layer = make().double()
    layer.eval()(torch.ones(2, *shape, dtype=torch.float64))  # lazy layers get their parameters
    for number, parameter in enumerate(layer.parameters()):
        nn.init.constant_(parameter, 0.7 + number)
    return layer.train()


def batches_of(name):
    """Return batches, and a factor of each output. The last batch has a sample in one process alone, if that can be."""
    shape = LAYERS[name][1]
    sizes = (5, 2, 1 if len(shape) > 1 else 3)
    return [(3 + torch.randn(n, *shape).double(), torch.randn(n, *shape).double()) for n in sizes]


def passed(layer, batches, world=None):
    """Return outputs, gradients and statistics after a pass over each batch, of which one process takes its samples."""
    results = {}
    for number, (x, factors) in enumerate(batches):
        taken = range(len(x)) if world is None else world.taken(len(x))
        here = slice(taken.start, taken.stop)
        weight = 1.0 if world is None or world.share(len(x)) else 0.0
        given = x[here].clone().requires_grad_()
        with nullcontext() if world is None else world.computing(len(x)):
            output = layer(given)
            ((output.square() * factors[here]).sum() * weight).backward()
        kept = slice(None) if weight else slice(0)
        results |= {f"output {number}": output.detach()[kept], f"input gradient {number}": given.grad[kept]}
    results |= {f"gradient of {name}": each.grad for name, each in layer.named_parameters()}
    return results | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def of_both(name):
    """Return the results of the plain layer, and of the one that shares its statistics."""
    plain, shared, batches = layer_of(name), layer_of(name), batches_of(name)
    share_statistics(own_world(), shared.modules())
    whole, own = passed(plain, batches), passed(shared, batches, own_world())
    assert isinstance(shared, type(plain))
    assert repr(shared) == repr(plain)
    assert list(shared.state_dict()) == list(plain.state_dict())
    x = batches[0][0]
    torch.testing.assert_close(shared.eval()(x), plain.eval()(x), **TOLERANCE)
    return whole, own


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_that_of_one_process(two_workers, name):
    (whole, first), (_, second) = two_workers.call(of_both, name)
    for key, value in whole.items():
        if key.startswith("gradient of"):
            joined = first[key] + second[key]
        elif key[-1].isdigit():
            joined = torch.cat([first[key], second[key]])
        else:
            joined = first[key]
            assert torch.equal(joined, second[key])
        torch.testing.assert_close(joined, value, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


def synchronized():
    plain, batches = nn.BatchNorm2d(3).double(), batches_of("2d, not affine")
    layer = nn.SyncBatchNorm(3).double()
    share_statistics(own_world(), [layer])
    return passed(plain, batches)["running_var"], passed(layer, batches, own_world())["running_var"]


def test_sync_batch_norm_of_the_user_is_a_plain_one(two_workers):
    for plain, own in two_workers.call(synchronized):
        torch.testing.assert_close(own, plain, **TOLERANCE)


def message(layer, x, size=2):
    share_statistics(own_world(), [layer])
    with own_world().computing(size), pytest.raises((ConfigError, ValueError)) as error:
        layer(x)
    return str(error.value)


def refusals():
    return message(nn.BatchNorm1d(3), torch.ones(1, 3), size=1), message(Centred(3), torch.ones(1, 3))


def test_one_value_in_all_processes_and_statistics_of_another_kind_are_refused(two_workers):
    for one_value, another_kind in two_workers.call(refusals):
        assert "Expected more than 1 value per channel" in one_value
        assert "Centred computes statistics over a batch in another way" in another_kind


def in_bfloat16():
    world, layer, plain = own_world(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    share_statistics(world, [layer])
    x = (5 + torch.randn(4, 3, 4, 4)).bfloat16()
    own = x[world.rank * 2 : world.rank * 2 + 2].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), world.computing(4):
        output = layer(own)
    output.float().square().sum().backward()
    torch.testing.assert_close(output, plain(x)[world.rank * 2 : world.rank * 2 + 2], rtol=0, atol=0.05)
    torch.testing.assert_close(layer.running_mean, plain.running_mean, rtol=0, atol=1e-5)
    return output.dtype, own.grad.dtype, layer.weight.grad.dtype


def test_statistics_of_bfloat16_are_computed_in_float32(two_workers):
    types = two_workers.call(in_bfloat16)
    assert types == [(torch.bfloat16, torch.bfloat16, torch.float32)] * 2


def apart_and_copied():
    world, layer, plain = own_world(), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    share_statistics(world, [layer])
    copied = copy.deepcopy(layer)
    x = torch.randn(2, 3) + world.rank
    torch.testing.assert_close(layer(x), plain(x))  # each process alone
    with world.computing(4):
        copied(x)
    return copied.running_mean.tolist()


def test_a_process_alone_has_its_own_statistics_and_a_copy_shares_them(two_workers):
    first, second = two_workers.call(apart_and_copied)
    assert first == second


def of_nans():
    world, layer = own_world(), nn.BatchNorm2d(3)
    share_statistics(world, [layer])
    x = torch.ones(1, 3, 2, 2) if world.share(1) else torch.full((1, 3, 2, 2), torch.nan)
    with world.computing(1):
        layer(x)
    return torch.cat([layer.running_mean, layer.running_var]).tolist(), float(mean_over(world, x, bool(world.share(1))))


def test_a_sample_that_does_not_count_changes_nothing(two_workers):
    for statistics, mean in two_workers.call(of_nans):
        assert statistics == pytest.approx([0.1] * 3 + [0.9] * 3)
        assert mean == 1.0


def second_derivatives():
    """Return the gradient of a gradient penalty, of the whole batch and of this process's samples."""
    torch.manual_seed(2)
    x, results = torch.randn(4, 3).double(), []
    for world in (None, own_world()):
        layer = nn.BatchNorm1d(3).double()
        given = (x if world is None else x[world.taken(4).start : world.taken(4).stop]).clone().requires_grad_()
        share_statistics(world or own_world(), [layer] if world else [])
        with nullcontext() if world is None else world.computing(4):
            output = layer(given).tanh().square().sum()
        (gradient,) = torch.autograd.grad(output, given, create_graph=True)
        results.append(torch.autograd.grad(gradient.pow(3).sum(), given)[0])
    return results


def test_second_derivatives_equal_those_of_one_process(two_workers):
    (whole, first), (_, second) = two_workers.call(second_derivatives)
    torch.testing.assert_close(torch.cat([first, second]), whole, **TOLERANCE)


def sharded():
    world = own_world()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    plain = copy.deepcopy(model)
    x = torch.randn(6, 3).double()
    share_statistics(world, model.modules())
    fully_shard(model[1])
    fully_shard(model)
    plain(x).square().mean().backward()
    with world.computing(6):
        model(x[world.taken(6).start : world.taken(6).stop]).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), plain.get_parameter(name).grad, **TOLERANCE)
    torch.testing.assert_close(model[1].running_var, plain[1].running_var, **TOLERANCE)


def test_a_sharded_component_equals_a_whole_one(two_workers):
    two_workers.call(sharded)


def compiled():
    world, results = own_world(), []
    for compiles in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
        share_statistics(world, model.modules())
        if compiles:
            model.compile(backend="aot_eager")
        with world.computing(4):
            model(torch.randn(2, 3).double() + world.rank).square().mean().backward()
        results.append([model[0].weight.grad, model[1].running_mean])
    torch.testing.assert_close(*results, **TOLERANCE)


@pytest.mark.slow
def test_a_compiled_component_shares_statistics(two_workers):
    two_workers.call(compiled, timeout=200)
