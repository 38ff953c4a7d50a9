"""Steps and norms where some ranks lack gradients that others have: all send the same messages."""

import pytest
import torch
from sample_shards import network
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from optimizer import OPTIMIZER_BUILDER_REGISTRY

OPTIONS = {
    "clipped": {},
    "cautious": {"use_cautious_optimizer": True},
    "compiled": {"use_cautious_optimizer": True, "implementation": "compiled"},
    "reference": {"use_cautious_optimizer": True, "implementation": "single"},
    "sgd": {"key": "sgd", "momentum": 0.9, "use_cautious_optimizer": True},
}


def stepped(lacking, options):
    """Return the norm of a step before which the first rank lacks gradients, and how far its own weights moved."""
    mesh = init_device_mesh("cpu", (2,))
    plain = nn.Parameter(torch.ones(3, dtype=torch.float64))
    sharded = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in network().parameters()]
    parameters = [plain, *sharded]
    before = [p.detach().clone() for p in parameters]
    options = {"key": "adamw", "lr": 0.1, "grad_clip_norm": 1.0, "weight_decay": 0.0, **options}
    optimizer = OPTIMIZER_BUILDER_REGISTRY[options.pop("key")](**options).build(parameters)
    for index, p in enumerate(parameters):
        if distributed.get_rank() or index not in lacking:
            p.grad = torch.full_like(p, 2.0)
    with_gradient = [p.grad is not None for p in parameters]
    optimizer.step()
    optimizer.step()
    moved = [bool((local(p) != local(q)).any()) for p, q in zip(parameters, before, strict=True)]
    return float(optimizer.grad_norm), moved == with_gradient


def local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def elements(lacking):
    """Return how many elements of all ranks have a gradient: rows are divided as 4 and 3, and as 2 and 1."""
    sizes = [(3, 0), (16, 12), (4, 3), (14, 7), (2, 1)]
    return sum(size[1] + (0 if index in lacking else size[0]) for index, size in enumerate(sizes))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("lacking", [[2], [1, 2, 3, 4], [0, 1, 2, 3, 4]], ids=["one", "sharded", "all"])
def test_a_rank_without_gradients_counts_as_zero(two_workers, lacking, options):
    found = two_workers.call(stepped, lacking, options)
    assert all(are_right for _, are_right in found)
    if 0 not in lacking:  # a plain gradient is equal on all ranks
        assert found[0][0] == found[1][0]
