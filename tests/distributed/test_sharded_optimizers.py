"""Overflows, closures, copies and state of an optimizer over sharded parameters, as over plain ones."""

import copy
import re
import warnings

import pytest
import torch
from processes import WorkerError
from sample_sharded_steps import apart, full, misplaced
from sample_shards import network, sharded_network, update
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from optimizer import OPTIMIZER_BUILDER_REGISTRY, CautiousOptimizer

CASES = {
    "fused": {},
    "single": {"implementation": "single"},
    "compiled": {"implementation": "compiled"},
    "cautious": {"use_cautious_optimizer": True},
    "reference": {"use_cautious_optimizer": True, "implementation": "foreach"},
}


def built(params, key="adamw", **options):
    return OPTIMIZER_BUILDER_REGISTRY[key](**{"lr": 0.05, **options}).build(params)


def overflow(options):
    """Return the moves of a scaled step that overflows on the first rank alone, and of the next step."""
    module = sharded_network()
    optimizer, scaler = built(module, **options), torch.amp.GradScaler("cpu", init_scale=4.0)
    before, positions = full(module), []
    for step in range(2):
        batch = torch.randn(4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        scaler.scale(module(batch).square().mean()).backward()
        if step == 0 and distributed.get_rank() == 0:
            module[0].weight.grad.to_local()[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        positions.append(optimizer.scheduler.last_epoch)
        if step == 0:
            assert all(map(torch.equal, before, full(module)))
    assert all(torch.isfinite(p).all() for p in full(module))
    return *positions, scaler.get_scale(), apart(module, network()) > 0


@pytest.mark.parametrize("case", CASES)
def test_an_overflow_in_one_shard_is_skipped_on_all_ranks(two_workers, case):
    assert two_workers.call(overflow, CASES[case]) == [(0, 1, 2.0, True)] * 2


def with_closure(key, options):
    """Return how far closures that are called in the step are from gradients that are there before it."""
    plain, closed = sharded_network(), sharded_network()
    first, second = built(plain, key, **options), built(closed, key, **options)
    update(plain, first, range(3))

    class Closes:
        def step(self):
            gradients = [p.grad for p in closed.parameters()]
            second.zero_grad()

            def closure():
                for p, gradient in zip(closed.parameters(), gradients, strict=True):
                    assert isinstance(p, DTensor)
                    p.grad = gradient
                return torch.tensor(2.5)

            assert second.step(closure) == 2.5
            assert all(isinstance(p, DTensor) for group in second.param_groups for p in group["params"])

        def zero_grad(self):
            second.zero_grad()

    update(closed, Closes(), range(3))
    return apart(plain, closed)


@pytest.mark.parametrize("options", [*CASES.values(), {"grad_clip_norm": 0.01}], ids=[*CASES, "clipped"])
def test_a_closure_sees_the_sharded_parameters(two_workers, options):
    assert two_workers.call(with_closure, "adamw", options) == [0.0, 0.0]


def test_a_closure_of_a_class_without_a_kernel_sees_the_sharded_parameters(two_workers):
    assert two_workers.call(with_closure, "nadam", {}) == [0.0, 0.0]


def continued(key, options):
    """Return how far a copy, and one that has loaded the state, are from the optimizer after two more updates."""
    module = sharded_network()
    optimizer = built(module, key, **options)
    update(module, optimizer, range(3))
    assert not list(misplaced(optimizer))
    moment = optimizer.state[module[0].weight].get("exp_avg")
    seen = None if moment is None else moment.full_tensor().clone()
    copied, copied_optimizer = copy.deepcopy((list(module.parameters()), optimizer))
    loaded = sharded_network()
    loaded.load_state_dict(module.state_dict())
    other = built(loaded, key, **options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for of_module, of_copy in zip(module.parameters(), copied, strict=True):
        of_module.grad = torch.ones_like(of_module)
        of_copy.grad = torch.ones_like(of_copy)
    for p in loaded.parameters():
        p.grad = torch.ones_like(p)
    for each in (optimizer, copied_optimizer, other):
        each.step()
        each.step()
    assert seen is None or not torch.equal(moment.full_tensor(), seen)  # the state is still that tensor
    whole = [p.full_tensor() for p in copied]
    return max(float((p - q).abs().max()) for p, q in zip(full(module), whole, strict=True)), apart(module, loaded)


@pytest.mark.parametrize("case", CASES)
def test_a_copy_and_a_loaded_state_continue_exactly(two_workers, case):
    assert two_workers.call(continued, "adamw", CASES[case]) == [(0.0, 0.0)] * 2


@pytest.mark.parametrize("key", ["sgd", "adagrad", "radam", "schedule_free_radam", "rprop"])
def test_state_of_other_classes_continues_exactly(two_workers, key):
    assert two_workers.call(continued, key, {}) == [(0.0, 0.0)] * 2


def half_moments():
    module = sharded_network(torch.float32)
    optimizer = built(module, implementation="compiled", state_dtype="bfloat16")
    update(module, optimizer, range(3))
    return {
        (value.dtype, isinstance(value, DTensor))
        for entries in optimizer.state.values()
        for name, value in entries.items()
        if name != "step"
    }


def test_moments_of_shards_can_be_bfloat16(two_workers):
    assert two_workers.call(half_moments) == [{(torch.bfloat16, True)}] * 2


def cautious_afterwards(key):
    """Return how far a plain optimizer of PyTorch's that was made cautious is from one piece, and its messages."""
    whole, parts = network(), sharded_network()
    make = {"adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}[key]
    first, second = (CautiousOptimizer(make(module.parameters(), lr=0.05)) for module in (whole, parts))
    update(whole, first, range(4))
    update(parts, second, range(4))
    for p in parts.parameters():
        p.grad = torch.ones_like(p)
    with CommDebugMode() as spy:
        second.step()
    for p in whole.parameters():
        p.grad = torch.ones_like(p)
    first.step()
    return apart(whole, parts), spy.get_total_counts(), list(misplaced(second))


@pytest.mark.parametrize("key", ["adamw", "radam"])
def test_a_plain_optimizer_made_cautious_steps_on_shards(two_workers, key):
    for difference, sent, odd in two_workers.call(cautious_afterwards, key):
        assert difference < 1e-12
        assert (sent, odd) == (1, [])


def gradient_of_another_placement():
    """Step a replicated parameter whose gradient is not summed yet, as tensor parallelism leaves it."""
    mesh = init_device_mesh("cpu", (2,))
    p = nn.Parameter(distribute_tensor(torch.zeros(3, dtype=torch.float64), mesh, [Replicate()]))
    local = torch.full((3,), 1.0 + distributed.get_rank(), dtype=torch.float64)
    p.grad = DTensor.from_local(local, mesh, [Partial()])
    built([p], "sgd", lr=1.0, grad_clip_norm=None).step()
    return p.full_tensor().tolist()


def test_a_gradient_is_summed_before_the_step_of_a_replicated_parameter(two_workers):
    assert two_workers.call(gradient_of_another_placement) == [[-3.0] * 3] * 2


def sharded_too_late(by_module):
    module = network()
    optimizer = built(module if by_module else module.parameters())
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        update(module, optimizer, range(2))
    return [str(each.message) for each in caught if "fully_shard" in str(each.message)]


def test_an_optimizer_of_a_module_that_is_sharded_later_is_refused_in_its_first_step(two_workers):
    with pytest.raises(WorkerError, match=r"'0.weight' was sharded after.*build it after fully_shard"):
        two_workers.call(sharded_too_late, True)


def test_an_optimizer_of_parameters_that_are_sharded_later_warns_once(two_workers):
    for messages in two_workers.call(sharded_too_late, False):
        assert len(messages) == 1
        assert re.search("no parameter has a gradient", messages[0])


def swapped_in():
    """Put the sharded parameters into the groups after building, as Accelerate does."""
    whole, parts = network(), network()
    optimizer, other = built(parts, "sgd", momentum=0.9), built(whole, "sgd", momentum=0.9)
    names = [name for name, _ in parts.named_parameters()]
    fully_shard(parts, mesh=init_device_mesh("cpu", (2,)))
    now = dict(parts.named_parameters())
    optimizer.param_groups[0]["params"] = [now[name] for name in names]
    update(parts, optimizer, range(3))
    update(whole, other, range(3))
    return apart(whole, parts)


def test_parameters_that_are_swapped_for_sharded_ones_before_the_first_step_are_trained(two_workers):
    assert max(two_workers.call(swapped_in)) < 1e-12
