"""Run in two processes: FSDP2-sharded parameters against the same training in one piece.

Writes, for each optimizer, how far the weights are apart, and what a round trip through torch's distributed
checkpoint did to position, lr and weights. Arguments: the file to write, and names of cases.
"""

import copy
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sample_naive import NaiveFactory
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

CASES = {
    "plain": ("adamw", {}),
    "clipped": ("adamw", {"grad_clip_norm": 0.05}),
    "cautious": ("adamw", {"use_cautious_optimizer": True}),
    "clipped and cautious": ("sgd", {"momentum": 0.9, "grad_clip_norm": 0.05, "use_cautious_optimizer": True}),
    "schedule-free": ("schedule_free_adamw", {}),
    "rules": ("adamw", {"no_decay": True, "param_groups": [{"match": "0.*", "lr_multiplier": 0.1}]}),
}


def factory(case):
    if case == "naive":
        return NaiveFactory()
    key, params = CASES[case]
    return OPTIMIZER_BUILDER_REGISTRY[key](lr=0.05, schedule={"type": "linear"}, **params)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))  # 7 and 3 rows: the shards are uneven


def sharded(mesh):
    module = layers()
    fully_shard(module[0], mesh=mesh)
    fully_shard(module[2], mesh=mesh)
    return fully_shard(module, mesh=mesh)


def train(module, optimizer, steps, rows=slice(None)):
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        module(x[rows]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def full(module):
    return [getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for p in module.parameters()]


def report(case, mesh):
    rows = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    whole, parts, twin = layers(), sharded(mesh), sharded(mesh)
    horizon = Horizon(10)
    optimizers = [factory(case).build(module, horizon=horizon) for module in (whole, parts, twin)]
    train(whole, optimizers[0], range(5))
    train(parts, optimizers[1], range(5), rows)
    norms = [getattr(optimizer, "grad_norm", None) for optimizer in optimizers[:2]]

    before = full(twin)
    get_optimizer_state_dict(twin, optimizers[2])  # before its first update: torch makes a step of its own
    unmoved = all(map(torch.equal, before, full(twin))) and optimizers[2].scheduler.last_epoch == 0
    twin.load_state_dict(parts.state_dict())
    set_optimizer_state_dict(twin, optimizers[2], copy.deepcopy(get_optimizer_state_dict(parts, optimizers[1])))
    position = optimizers[2].scheduler.last_epoch
    for module, optimizer in ((whole, optimizers[0]), (parts, optimizers[1]), (twin, optimizers[2])):
        train(module, optimizer, range(5, 8), slice(None) if module is whole else rows)
    return {
        "apart": max(float((p - q).abs().max()) for p, q in zip(full(whole), full(parts), strict=True)),
        "norms": [0.0 if norm is None else float(norm) for norm in norms],
        "unmoved": unmoved,
        "position": position,
        "resumed": all(map(torch.equal, full(parts), full(twin))),
        "lrs": [optimizer.param_groups[0]["lr"] for optimizer in optimizers],
    }


def main():
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    reports = {case: report(case, mesh) for case in sys.argv[2:]}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(reports))
    dist.barrier()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then


if __name__ == "__main__":
    main()
