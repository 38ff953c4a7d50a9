"""One step on the shards of two processes, against the kernel alone on tensors of the same local sizes.

A cautious step on shards needs a sum over the processes. What that costs at least is shown by the kernel followed by
one all_reduce of as many numbers as there are parameters: the processes wait for each other in each step.

Run: torchrun --standalone --nproc-per-node 2 benchmarks/sharded_steps.py
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from measuring import machine, table
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim import Optimizer

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

ROUNDS = 11
SIZES: Mapping[str, tuple[int, list[tuple[int, ...]]]] = {
    "60 tensors, 2.0 million elements": (30, [(256, 256), (256,)] * 30),
    "72 tensors, 25.2 million elements": (6, [(1024, 1024)] * 24 + [(1024,)] * 48),
}
"""Steps in a turn, and the shapes. Turns are long, as the processes do not begin at the same moment."""
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", {}),
    "adamw, cautious": ("adamw", {"use_cautious_optimizer": True}),
    "adamw, cautious, compiled": ("adamw", {"use_cautious_optimizer": True, "implementation": "compiled"}),
    "sgd with momentum, cautious": ("sgd", {"momentum": 0.9, "use_cautious_optimizer": True}),
    "schedule_free_radam": ("schedule_free_radam", {}),
}


def built(key: str, parameters: list[nn.Parameter], **options: Any) -> Optimizer:
    """Return an optimizer over parameters that have gradients."""
    for p in parameters:
        p.grad = torch.randn_like(p) * 1e-3
    factory: Any = OPTIMIZER_BUILDER_REGISTRY[key]
    optimizer: Optimizer = factory(grad_clip_norm=None, **options).build(parameters, horizon=Horizon(10**6))
    return optimizer


def steps_of(key: str, shapes: list[tuple[int, ...]], options: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return the steps to compare: on shards, on plain tensors of the local sizes, and of PyTorch on DTensors."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    shards = [distribute_tensor(torch.randn(shape) * 0.02, mesh, [Shard(0)]) for shape in shapes]
    plain = built(key, [nn.Parameter(shard.to_local().clone()) for shard in shards], **options).step
    counts = torch.zeros(len(shapes), dtype=torch.int64)
    steps: dict[str, Callable[[], object]] = {
        "plain tensors of the local sizes": plain,
        "plain tensors, then one all_reduce": lambda: (plain(), distributed.all_reduce(counts)),
        "one all_reduce": lambda: distributed.all_reduce(counts),
        "shards": built(key, [nn.Parameter(shard) for shard in shards], **options).step,
    }
    if key == "adamw" and not options:
        copies = [nn.Parameter(shard.clone()) for shard in shards]
        for p in copies:
            p.grad = torch.randn_like(p) * 1e-3
        steps["torch AdamW(fused=True) on DTensors"] = torch.optim.AdamW(copies, fused=True).step
    return steps


def seconds(step: Callable[[], object], calls: int) -> float:
    """Return the time of a step in a turn of so many, on the slower process: both begin together."""
    distributed.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    taken: Tensor = torch.tensor((time.perf_counter() - start) / calls)
    distributed.all_reduce(taken, op=distributed.ReduceOp.MAX)
    return float(taken)


def medians(steps: Mapping[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Return the median time of each step. They take turns, in the same order on all processes."""
    for step in steps.values():
        step()
        step()
    rounds = [{name: seconds(step, calls) for name, step in steps.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(each[name] for each in rounds) for name in steps}


def main() -> None:
    """Print a table for each set of sizes and each kind of step."""
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    is_first = distributed.get_rank() == 0
    if is_first:
        print(f"{distributed.get_world_size()} gloo processes, {machine()}\n")
    for size, (calls, shapes) in SIZES.items():
        for name, (key, options) in KINDS.items():
            times = medians(steps_of(key, shapes, options), calls)
            if is_first:
                print(f"{size}: {name}\n\n{table(times, 'plain tensors of the local sizes')}\n", flush=True)
    distributed.barrier()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then


if __name__ == "__main__":
    main()
