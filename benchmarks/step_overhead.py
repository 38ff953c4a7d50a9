"""What the schedule inside costs: one update of ours against the bare optimizer, and against the bare
optimizer with a torch scheduler stepped by hand. Medians of interleaved rounds, one process."""

from collections.abc import Callable
from typing import Any

import torch
from measuring import DEVICE, machine, medians, table

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, scheduled


def parameters() -> list[torch.Tensor]:
    """Return 4 tensors of 8 elements, with gradients: so small that only overhead is left."""
    tensors = [torch.zeros(8, device=DEVICE, requires_grad=True) for _ in range(4)]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    return tensors


def contenders() -> dict[str, Callable[[], object]]:
    """Return one-update functions by name."""
    curve: Any = {"peak_lr": 1e-3, "total_steps": 10**6, "warmup_steps": 100}
    plain = torch.optim.AdamW(parameters(), lr=1e-3)
    bare = torch.optim.AdamW(parameters(), lr=1e-3, fused=True)
    pair = torch.optim.AdamW(parameters(), lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(pair, lambda update: 1.0 / (1 + update))
    mixed: Any = scheduled(torch.optim.AdamW)
    inside = mixed(parameters(), lr=1e-3, fused=True).embed(SCHEDULE_REGISTRY["warmup_cosine_decay"](**curve))
    factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"]
    ours = factory(**curve, grad_clip_norm=None).build(parameters())

    def two_objects() -> None:
        pair.step()
        scheduler.step()

    return {
        "torch AdamW(fused=True)": bare.step,
        "torch AdamW, as users write it": plain.step,
        "torch AdamW(fused=True) + LambdaLR": two_objects,
        "the same class with a schedule inside, `scheduled(AdamW)`": inside.step,
        "`adamw_warmup_cosine_decay`": ours.step,
    }


def times() -> dict[str, float]:
    """Return the median seconds of an update."""
    return medians(contenders(), rounds=31, calls=400)


if __name__ == "__main__":
    print(f"{machine()}\n\n{table(times(), 'torch AdamW(fused=True)', 'us')}")
