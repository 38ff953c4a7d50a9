"""Run in two processes: Accelerate's loop with accumulation, its state saved half way and loaded again.

Writes what each rank saw. Arguments: the folder to write to, and `ours` or `naive`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from sample_naive import Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, ReadOnlyScheduler

BATCHES = 7  # on each process; two make an update, so that the last window is short


def built(module, kind):
    if kind == "naive":
        optimizer = Naive(module.named_parameters(), lr=1.0, updates=10)
        return optimizer, optimizer.scheduler
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1.0, weight_decay=0.0, schedule={"type": "linear"})
    optimizer = factory.build(module, horizon=Horizon(10))
    return optimizer, ReadOnlyScheduler(optimizer)


def run(kind, steps, load=None, save=None):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    module = nn.Linear(4, 2)
    optimizer, scheduler = built(module, kind)
    data = DataLoader(TensorDataset(torch.randn(8 * BATCHES, 4)), batch_size=4)
    model, wrapped, data, scheduler = accelerator.prepare(module, optimizer, data, scheduler)
    if load:
        accelerator.load_state(load)
    lrs = []
    for step, (x,) in enumerate(data):
        if step not in steps:
            continue
        with accelerator.accumulate(model):
            lrs.append(optimizer.param_groups[0]["lr"])
            accelerator.backward(model(x).square().mean())
            wrapped.step()
            scheduler.step()  # as Accelerate's users write it
            wrapped.zero_grad()
    if save:
        accelerator.save_state(save)
    rank = accelerator.process_index
    return rank, {"lrs": lrs, "updates": optimizer.scheduler.last_epoch, "weights": module.weight.tolist()}


def main():
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    rank, whole = run(kind, range(BATCHES))
    run(kind, range(4), save=folder / "state")
    _, resumed = run(kind, range(4, BATCHES), load=folder / "state")
    (folder / f"{rank}.json").write_text(json.dumps({"whole": whole, "resumed": resumed}))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then


if __name__ == "__main__":
    main()
