"""What many components, many tensors and many parameters cost, and whether the cost grows as their number does."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from measuring import DEVICE, SHORT, machine, medians, table
from names import ALL, ALL_CLIPPED, EACH_CLIPPED
from tensors import parameters

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, step_together


def built(shapes: list[tuple[int, ...]], **params: Any) -> Any:
    """Return an `adamw` of ours over new parameters."""
    factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw"]
    params = {"lr": 1e-3, "grad_clip_norm": None, "schedule": {"type": "cosine"}, **params}
    return factory(**params).build(parameters(shapes), horizon=Horizon(10**6))


def all_of(steps: list[Callable[[], object]]) -> Callable[[], None]:
    """Return a function that takes all steps."""

    def run() -> None:
        for step in steps:
            step()

    return run


def hundred_components() -> dict[str, float]:
    """Return the seconds of an update of 100 components of 4 tensors of 8 elements."""
    small: list[tuple[int, ...]] = [(8,)] * 4
    one = torch.optim.AdamW(parameters(small * 100), lr=1e-3, fused=True)
    together = parameters(small * 100)
    clipped = torch.optim.AdamW(together, lr=1e-3, fused=True)
    functions = {
        ALL: one.step,
        "100 AdamW": all_of([torch.optim.AdamW(parameters(small), lr=1e-3).step for _ in range(100)]),
        "100 AdamW(fused=True)": all_of(
            [torch.optim.AdamW(parameters(small), lr=1e-3, fused=True).step for _ in range(100)]
        ),
        "100 `adamw` with a cosine": all_of([built(small).step for _ in range(100)]),
        ALL_CLIPPED: all_of([lambda: torch.nn.utils.clip_grad_norm_(together, 10.0), clipped.step]),
        EACH_CLIPPED: all_of([built(small, grad_clip_norm=10.0).step for _ in range(100)]),
    }
    for name, clip in (("", None), (", each clipped", 10.0)):
        optimizers = [built(small, grad_clip_norm=clip) for _ in range(100)]
        functions[f"100 `adamw` with a cosine{name}, by `step_together`"] = partial(step_together, optimizers)
    return medians(functions, rounds=31, calls=3)


def growth(sizes: list[int], make: Callable[[int], Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of an update by size."""
    return {str(size): medians({"": make(size)}, rounds=5)[""] for size in (sizes[:2] if SHORT else sizes)}


def growth_table(title: str, found: Mapping[str, float]) -> str:
    """Return a table of times by size, and the slope of their logarithms: 1 is linear."""
    sizes, seconds = [int(size) for size in found], [*found.values()]
    rows = [f"| {title} | ms an update | µs each |", "|---|---|---|"]
    for size, each in zip(sizes, seconds, strict=True):
        rows.append(f"| {size:,} | {each * 1e3:.3f} | {each / size * 1e6:.4g} |")
    slope = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
    last = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
    return "\n".join([*rows, "", f"Slope over all {slope:.2f}, between the last two {last:.2f}; 1 is linear."])


def all_growth() -> dict[str, dict[str, float]]:
    """Return the seconds by size of components, tensors and parameters, up to as many parameters as fit.

    They take 16 bytes each, with gradient and state.
    """
    on_cpu = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = on_cpu if DEVICE == "cpu" else torch.cuda.mem_get_info()[0]
    counts = [count for count in (10**6, 10**7, 10**8, 5 * 10**8, 10**9) if count <= 10**7 or 17 * count < free]
    small: list[tuple[int, ...]] = [(8,)] * 4
    return {
        "components": growth([1, 10, 100, 1000], lambda n: all_of([built(small).step for _ in range(n)])),
        "tensors": growth([100, 1_000, 10_000, 100_000], lambda n: built([(8,)] * n).step),
        "parameters": growth(counts, lambda n: built([(10**6,)] * (n // 10**6)).step),
    }


if __name__ == "__main__":
    print(machine(), table(hundred_components(), ALL, "us"), sep="\n\n")
    print("", *(growth_table(title, found) for title, found in all_growth().items()), sep="\n\n")
