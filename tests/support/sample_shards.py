"""A small network, whole or sharded by FSDP2 with uneven shards, and its updates in float64, for tests of processes."""

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

ROWS = 8
"""Of each batch; all ranks together have them all."""

PARAMS = {
    "adamw_warmup_cosine_decay": {"peak_lr": 0.01, "warmup_steps": 2, "total_steps": 20},
    "adamw": {"lr": 0.01, "no_decay": True, "schedule": {"type": "linear"}},
    "schedule_free_radam": {"lr": 0.01, "silent_sgd_phase": False},
}


def network(dtype=torch.float64):
    """Return a network that is equal on all ranks."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def sharded_network(dtype=torch.float64, mesh_shape=None):
    """Return that network sharded over all processes: 7 and 3 rows make uneven shards, at four an empty one."""
    names = None if mesh_shape is None else ("replicate", "shard")
    mesh = init_device_mesh("cpu", mesh_shape or (distributed.get_world_size(),), mesh_dim_names=names)
    module = network(dtype)
    fully_shard(module[0], mesh=mesh)
    return fully_shard(module, mesh=mesh)


def built(module, key="adamw", **changed):
    """Return an optimizer of `module`."""
    params = {**PARAMS[key], **changed}
    return OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module, horizon=Horizon(20))


def update(module, optimizer, steps):
    """Take the updates `steps` of all ranks' rows: each rank has its part of a sharded network's batch."""
    rows = slice(None)
    if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        share = ROWS // distributed.get_world_size()
        rows = slice(share * distributed.get_rank(), share * (distributed.get_rank() + 1))
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(ROWS, 4, generator=generator, dtype=torch.float64)
        module(batch[rows].to(module[0].weight.dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(module, key="adamw", steps=3, **changed):
    """Return an optimizer of `module` after some updates."""
    optimizer = built(module, key, **changed)
    update(module, optimizer, range(steps))
    return optimizer


def whole(tensor):
    """Return a tensor as a plain one."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def apart(module, other):
    """Return the largest difference between the weights of two networks."""
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return max(float((whole(p) - whole(q)).abs().max()) for p, q in pairs)
