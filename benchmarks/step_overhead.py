"""What the schedule inside costs: one update of ours against the bare optimizer, and against the bare
optimizer with a torch scheduler stepped by hand. Medians of interleaved rounds, one process."""

import platform
import statistics
import time
from collections.abc import Callable

import torch

from optimizer import OPTIMIZER_BUILDER_REGISTRY

ROUNDS, UPDATES = 31, 400


def parameters() -> list[torch.Tensor]:
    """Return 4 tensors of 8 elements, with gradients: so small that only overhead is left."""
    tensors = [torch.zeros(8, requires_grad=True) for _ in range(4)]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    return tensors


def contenders() -> dict[str, Callable[[], object]]:
    """Return one-update functions by name."""
    bare = torch.optim.AdamW(parameters(), lr=1e-3, fused=True)
    pair = torch.optim.AdamW(parameters(), lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(pair, lambda update: 1.0 / (1 + update))
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](  # type: ignore[call-arg]  # any factory
        peak_lr=1e-3, total_steps=10**6, warmup_steps=100
    )
    ours = factory.build(parameters())

    def two_objects() -> None:
        pair.step()
        scheduler.step()

    return {"AdamW(fused)": bare.step, "AdamW(fused) + LambdaLR": two_objects, "adamw_warmup_cosine_decay": ours.step}


def main() -> None:
    """Measure and print a table of medians in microseconds an update."""
    functions = contenders()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, update in functions.items():
            start = time.perf_counter()
            for _ in range(UPDATES):
                update()
            times[name].append((time.perf_counter() - start) / UPDATES * 1e6)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    bare = statistics.median(times["AdamW(fused)"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:28} {median:8.1f} us an update  {median - bare:+6.1f} us  {median / bare:5.2f} x")


if __name__ == "__main__":
    main()
