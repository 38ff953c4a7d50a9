"""The cost of several processes on a CPU: a backward pass with and without the averages of its gradients, ours against
PyTorch's DistributedDataParallel. Medians of interleaved rounds in two gloo processes with one thread each:
`torchrun --standalone --nproc-per-node 2 benchmarks/processes.py`."""

import os
import statistics
import time
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.distributed as dist
from measuring import machine, table
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.distributed.gradients import GradientAverages
from trainer.distributed.launch import joined
from trainer.distributed.step_labels import StepLabel
from trainer.distributed.world import World

SAMPLES = 16


def network(width: int) -> nn.Module:
    """Return three layers of `width`."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))


def contenders(world: World, width: int) -> dict[str, Callable[[], object]]:
    """Return functions by name that make the gradients of one update."""
    alone, ours = network(width), network(width)
    theirs = DistributedDataParallel(deepcopy(alone), gradient_as_bucket_view=True)
    x = torch.randn(SAMPLES, width)
    averages = GradientAverages(world, {"network": dict(ours.named_parameters())}, 2)
    parameters, marks = [*ours.parameters()], torch.zeros(2)

    def backward(module: nn.Module) -> None:
        module.zero_grad()
        module(x).square().mean().backward()

    def averaged() -> None:
        ours.zero_grad()
        loss = ours(x).square().mean()
        averages.begin(StepLabel(0, ("network",)), marks)
        loss.backward(inputs=parameters)
        averages.finish()

    return {
        "DistributedDataParallel": lambda: backward(theirs),
        "innerstep": averaged,
        "without averages": lambda: backward(alone),
    }


def medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of one call of each function, in seconds; all processes begin together."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(rounds + 3):
        for name, function in functions.items():
            dist.barrier()
            start = time.perf_counter()
            function()
            if index >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> None:
    """Print a table for each width."""
    torch.set_num_threads(1)
    with joined(World.from_environment(), 60) as world:
        for width, rounds in ((64, 301), (512, 151), (2048, 31)):
            found = medians(contenders(world, width), rounds)
            if world.is_main:
                print(f"{machine()}, {world.size} processes, 3 layers of {width}\n")
                print(table(found, "DistributedDataParallel", "us") + "\n", flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then
