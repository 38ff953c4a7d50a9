"""Norms and steps over plain and sharded parameters, on one mesh and on several, as over whole ones."""

import pytest
import torch
from sample_sharded_steps import apart, in_one_group
from sample_shards import ROWS, network
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.transforms.clipping import clip_to_norm, total_norm

HSDP = {"replicas of shards": (1, 2), "shards of replicas": (2, 1)}


def built(params, key="adamw", **options):
    return OPTIMIZER_BUILDER_REGISTRY[key](**{"lr": 0.05, "grad_clip_norm": None, **options}).build(params)


def gradients(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=dtype) for shape in ((5, 3), (1, 4), (6,), (3, 2))]


def placed(tensors):
    """Return tensors as a row of shards, a shard without rows on one rank, a replica, and a plain tensor."""
    mesh, size = init_device_mesh("cpu", (distributed.get_world_size(),)), distributed.get_world_size()
    other = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicate", "shard"))
    first, second, third, fourth = (tensor.clone() for tensor in tensors)
    return [
        distribute_tensor(first, mesh, [Shard(0)]),
        distribute_tensor(second, other, [Replicate(), Shard(0)]),
        distribute_tensor(third, mesh, [Replicate()]),
        fourth,
    ]


def norms():
    """Return the norm of all and of parts, whole and placed, and how many messages the placed took."""
    found = {}
    for part in (slice(None), slice(0, 2), slice(1, 4), slice(0, 1), slice(2, 4)):
        for dtype in (torch.float64, torch.bfloat16):
            whole = gradients(dtype=dtype)
            parts = placed(whole)[part]
            with CommDebugMode() as spy:
                norm = total_norm(parts)
            assert not isinstance(norm, DTensor)
            right = total_norm([each.double() for each in whole[part]])
            found[f"{part} {dtype}"] = float(norm), float(right), spy.get_total_counts()
    return found


def clipped(max_norm):
    whole = gradients()
    parts = placed(whole)
    norm = clip_to_norm(parts, max_norm), clip_to_norm(whole, max_norm)
    wholes = [each.full_tensor() if isinstance(each, DTensor) else each for each in parts]
    return *map(float, norm), max(float((p - q).abs().max()) for p, q in zip(whole, wholes, strict=True))


def norm_of_sums():
    mesh = init_device_mesh("cpu", (2,))
    rank = distributed.get_rank()
    return float(total_norm([DTensor.from_local(torch.tensor([3.0, 4.0 * rank]), mesh, [Partial()])]))


def test_a_norm_is_that_of_the_whole_over_any_mix_of_placements(two_workers):
    for found in two_workers.call(norms):
        for name, (norm, right, sent) in found.items():
            assert norm == pytest.approx(right, rel=1e-6 if "bfloat16" in name else 1e-13), name
            assert sent == (0 if "slice(2," in name else 1), name


@pytest.mark.slow
def test_a_norm_on_four_processes_counts_no_replica_twice(four_workers):
    for found in four_workers.call(norms):
        for name, (norm, right, _) in found.items():
            assert norm == pytest.approx(right, rel=1e-6 if "bfloat16" in name else 1e-13), name


def test_the_norm_of_unsummed_gradients_is_that_of_their_sum(two_workers):
    assert two_workers.call(norm_of_sums) == pytest.approx([(36 + 16) ** 0.5] * 2)


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_scales_all_placements_by_one_factor(two_workers, max_norm):
    for norm, right, difference in two_workers.call(clipped, max_norm):
        assert norm == pytest.approx(right, rel=1e-13)
        assert difference < 1e-14


def partly_sharded(mesh_shapes):
    """Return a network whose layers are sharded on meshes of these shapes; on None one is plain."""
    module = network()
    for layer, shape in zip((module[0], module[2]), mesh_shapes, strict=True):
        if shape is not None:
            names = ("replicate", "shard")[2 - len(shape) :]
            fully_shard(layer, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    return module


def train_mix(mesh_shapes, options):
    """Return how far a partly sharded network is from one piece, and the messages of a step."""
    whole, parts = network(), partly_sharded(mesh_shapes)
    of_whole, of_parts = (built(in_one_group(module), **options) for module in (whole, parts))
    size, rank, sent = distributed.get_world_size(), distributed.get_rank(), 0
    for step in range(4):
        batch = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        whole(batch).square().mean().backward()
        parts(batch[ROWS * rank // size : ROWS * (rank + 1) // size]).square().mean().backward()
        for p in parts.parameters():
            if not isinstance(p, DTensor):
                distributed.all_reduce(p.grad)
                p.grad /= size
        with CommDebugMode() as spy:
            of_parts.step()
        sent = spy.get_total_counts()
        of_whole.step()
        of_whole.zero_grad()
        of_parts.zero_grad()
    return apart(whole, parts), apart(whole, network()), sent


CAUTIOUS, CLIPPED = {"use_cautious_optimizer": True, "weight_decay": 0.1}, {"grad_clip_norm": 0.02}
MIXES = {
    "plain and sharded, cautious": ((None, (2,)), CAUTIOUS, 1),
    "plain and sharded, cautious, compiled": (((2,), None), {**CAUTIOUS, "implementation": "compiled"}, 1),
    "plain and sharded, cautious, in float64": ((None, (2,)), {**CAUTIOUS, "implementation": "single"}, 1),
    "plain and sharded, clipped": (((2,), None), CLIPPED, 1),
    "two meshes, cautious and clipped": (((2,), (1, 2)), {**CAUTIOUS, **CLIPPED}, 2),
    "two replicas, cautious and clipped": (((2, 1), (2,)), {**CAUTIOUS, **CLIPPED}, 2),
    "sgd": ((None, (2,)), {"key": "sgd", "momentum": 0.9, **CLIPPED}, 1),
}
MIXES_OF_FOUR = {
    "replicas": (((2, 2), (2, 2)), {**CAUTIOUS, **CLIPPED}),
    "replicas, shards and plain": (((2, 2), None), {**CAUTIOUS, **CLIPPED}),
    "replicas and shards": (((2, 2), (4,)), {**CAUTIOUS, **CLIPPED}),
}


@pytest.mark.parametrize("mix", MIXES)
def test_an_optimizer_over_several_placements_trains_as_in_one_piece(two_workers, mix):
    shapes, options, messages = MIXES[mix]
    for difference, moved, sent in two_workers.call(train_mix, shapes, options):
        assert difference < 1e-12
        assert moved > 1e-3
        assert sent == messages


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES_OF_FOUR)
def test_replicated_dimensions_of_a_mesh_are_not_summed(four_workers, mix):
    for difference, moved, _ in four_workers.call(train_mix, *MIXES_OF_FOUR[mix]):
        assert difference < 1e-12
        assert moved > 1e-3
