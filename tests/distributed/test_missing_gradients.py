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
    """Return the norm of steps in which the first rank lacks gradients, and whether all others moved their weights."""
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("lacking", [[2], [1, 2, 3, 4], [0, 1, 2, 3, 4]], ids=["one", "sharded", "all"])
def test_a_rank_without_gradients_counts_as_zero(two_workers, lacking, options):
    found = two_workers.call(stepped, lacking, options)
    assert all(are_right for _, are_right in found)
    if 0 not in lacking:  # a plain gradient is equal on all ranks
        assert found[0][0] == found[1][0]


def plain_gradient():
    """Return the refusal of a whole gradient of a sharded parameter."""
    p = nn.Parameter(distribute_tensor(torch.ones(4, dtype=torch.float64), init_device_mesh("cpu", (2,)), [Shard(0)]))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.1, grad_clip_norm=None).build([p])
    p.grad = torch.ones(4, dtype=torch.float64)
    with pytest.raises(TypeError) as refusal:
        optimizer.step()
    assert torch.equal(p.full_tensor(), torch.ones(4, dtype=torch.float64))
    return str(refusal.value)


def test_a_plain_gradient_of_a_sharded_parameter_is_refused(two_workers):
    for message in two_workers.call(plain_gradient):
        assert "of shape [4] has a plain gradient" in message
        assert "distribute_tensor" in message
