"""One step of our optimizers and of the peers' over the same 25.2 M parameters, side by side."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import heavyball
import pytorch_optimizer
import torch
from measuring import extra_memory, machine, medians, table
from schedulefree.radam_schedulefree import RAdamScheduleFree
from torch import Tensor

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

SHAPES = [(1024, 1024)] * 24 + [(1024,)] * 48
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN, FUSED = "torch AdamW + LambdaLR, as users write it", "torch AdamW(fused=True)"


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    """Return parameters with gradients."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape, device=DEVICE) * 0.02) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p) * 1e-3
    return made  # type: ignore[return-value]  # parameters are tensors


def ours(key: str, **params: Any) -> Callable[[], object]:
    """Return the step of an optimizer of ours, without clipping, which the peers do not do either."""
    factory: Any = OPTIMIZER_BUILDER_REGISTRY[key]
    step: Callable[[], object] = factory(grad_clip_norm=None, **params).build(parameters(), horizon=Horizon(10**6)).step
    return step


def two_objects(**options: Any) -> Callable[[], object]:
    """Return a step of torch's AdamW and of a scheduler beside it."""
    optimizer = torch.optim.AdamW(parameters(), lr=1e-3, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0 / (1 + update))

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return step


@cache
def timms() -> Any:
    """Return timm's optimizers, or None without it (`pip install --no-deps timm`). Its package asks for torchvision,
    of which they use nothing."""
    if find_spec("timm") is None:
        return None
    if find_spec("torchvision") is None:
        for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".models"):
            sys.modules[f"torchvision{name}"] = MagicMock()
    return import_module("timm.optim")


def heavyballs(**options: Any) -> Callable[[], object]:
    """Return HeavyBall's AdamW. Its own compiling ends in an error of gcc 12 for cautious steps on a CPU."""
    setattr(heavyball.utils, "compile_mode", None)  # noqa: B010  # it is typed as a string
    held = parameters()
    gradients = [p.grad for p in held]
    optimizer = heavyball.AdamW(held, lr=1e-3, **options)

    def step() -> None:
        for p, gradient in zip(held, gradients, strict=True):
            p.grad = gradient  # it takes them away
        optimizer.step()

    return step


def adams() -> dict[str, Callable[[], object]]:
    """Return AdamW in its forms."""
    return {
        FUSED: torch.optim.AdamW(parameters(), lr=1e-3, fused=True).step,
        PLAIN: two_objects(),
        "`adamw_warmup_cosine_decay`": ours("adamw_warmup_cosine_decay", peak_lr=1e-3, warmup_steps=100),
        "`adamw`": ours("adamw", lr=1e-3, schedule={"type": "cosine"}),
        "heavyball.AdamW, not compiled": heavyballs(),
    }


def cautious_adams() -> dict[str, Callable[[], object]]:
    """Return cautious AdamW in its forms, with torch's fused AdamW to compare."""
    options = {"lr": 1e-3, "use_cautious_optimizer": True}
    functions = {
        FUSED: torch.optim.AdamW(parameters(), lr=1e-3, fused=True).step,
        "`adamw`, cautious": ours("adamw", **options),
        "`adamw`, cautious, compiled": ours("adamw", **options, implementation="compiled"),
        "`adamw`, cautious, the reference": ours("adamw", **options, implementation="single"),
        "heavyball.AdamW(caution=True), not compiled": heavyballs(caution=True),
        "pytorch_optimizer.AdamP(cautious=True)": pytorch_optimizer.AdamP(parameters(), lr=1e-3, cautious=True).step,
    }
    if (timm := timms()) is not None:
        functions["timm AdamWLegacy(caution=True)"] = timm.AdamWLegacy(parameters(), lr=1e-3, caution=True).step
    return functions


def radams() -> dict[str, Callable[[], object]]:
    """Return schedule-free RAdam in its forms, beyond the updates in which it does nothing."""
    library: Any = RAdamScheduleFree(parameters(), lr=1e-3)
    library.train()
    functions = {
        "schedulefree.RAdamScheduleFree": library.step,
        "`schedule_free_radam`": ours("schedule_free_radam", lr=1e-3),
        "`schedule_free_radam`, compiled": ours("schedule_free_radam", lr=1e-3, implementation="compiled"),
    }
    for step in functions.values():
        for _ in range(6):
            step()
    return functions


def memory() -> str:
    """Return a table of what a step takes at most beside parameters, gradients and state, against the parameters."""
    whole = sum(p.numel() * p.element_size() for p in parameters())
    rows = ["| | MB | of the parameters |", "|---|---|---|"]
    functions = {name: step for make in CONTENDERS.values() for name, step in make().items()}
    for name, step in functions.items():
        step()
        step()
        extra = extra_memory(step)
        rows.append(f"| {name} | {extra / 1e6:.0f} | {extra / whole:.2f} |")
    return "\n".join(rows)


CONTENDERS = {"AdamW": adams, "Cautious AdamW": cautious_adams, "Schedule-free RAdam": radams}
"""Functions that make the steps to compare, by title. The first of each is what the others are compared with."""


def main() -> None:
    """Measure and print the tables."""
    print(machine())
    for title, make in CONTENDERS.items():
        times = medians(make(), rounds=15)
        print(f"\n{title}\n\n{table(times, next(iter(times)))}", flush=True)
    print(f"\n{memory()}")


if __name__ == "__main__":
    main()
