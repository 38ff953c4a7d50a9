"""One step of our optimizers and of the peers' over the same parameters, side by side, and each on its own."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import torch
from measuring import DEVICE, extra_memory, machine, medians
from torch import Tensor

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

Step = Callable[[], object]

SIDE = 4096 if DEVICE == "cuda" else 1024
SHAPES = [(SIDE, SIDE)] * 24 + [(SIDE,)] * 48
"""25.2 million parameters, on a CUDA device 402.8 million: many times its cache."""
CALLS = 10 if DEVICE == "cuda" else 1
"""Steps in a round: enough that a device does not wait for the first one's launch."""
PLAIN, FUSED = "torch AdamW + LambdaLR, as users write it", "torch AdamW(fused=True)"


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    """Return parameters with gradients."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape, device=DEVICE) * 0.02) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p) * 1e-3
    return made  # type: ignore[return-value]  # parameters are tensors


def ours(key: str, shapes: Sequence[tuple[int, ...]] = SHAPES, **params: Any) -> Step:
    """Return the step of an optimizer of ours, without clipping, which the peers do not do either."""
    factory: Any = OPTIMIZER_BUILDER_REGISTRY[key]
    step: Step = factory(grad_clip_norm=None, **params).build(parameters(shapes), horizon=Horizon(10**6)).step
    return step


def two_objects(**options: Any) -> Step:
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


def heavyballs(**options: Any) -> Step:
    """Return HeavyBall's AdamW, which compiles itself; its cautious steps not, as that ends in an error of gcc 12."""
    utils: Any = import_module("heavyball").utils
    mode = None if options.get("caution") else utils.compile_mode
    held = parameters()
    gradients = [p.grad for p in held]
    optimizer = import_module("heavyball").AdamW(held, lr=1e-3, **options)

    def step() -> None:
        utils.compile_mode = mode
        for p, gradient in zip(held, gradients, strict=True):
            p.grad = gradient  # it takes them away
        optimizer.step()

    return step


def fused() -> Step:
    """Return the step of torch's fused AdamW."""
    return torch.optim.AdamW(parameters(), lr=1e-3, fused=True).step


def adamp() -> Step:
    """Return pytorch_optimizer's step that can be cautious."""
    step: Step = import_module("pytorch_optimizer").AdamP(parameters(), lr=1e-3, cautious=True).step
    return step


def timm_cautious() -> Step:
    """Return timm's cautious AdamW."""
    step: Step = timms().AdamWLegacy(parameters(), lr=1e-3, caution=True).step
    return step


def radam() -> Step:
    """Return schedulefree's own RAdam, beyond the updates in which it does nothing."""
    optimizer = import_module("schedulefree").RAdamScheduleFree(parameters(), lr=1e-3)
    optimizer.train()
    return started(optimizer.step)


def started(step: Step) -> Step:
    """Return `step` after six of it, in which RAdam does nothing."""
    for _ in range(6):
        step()
    return step


ADAMW: dict[str, Any] = {"lr": 1e-3, "schedule": {"type": "cosine"}}
CAUTIOUS: dict[str, Any] = {**ADAMW, "use_cautious_optimizer": True}

in_bfloat16 = partial(ours, "adamw", **ADAMW, implementation="compiled", state_dtype="bfloat16")

Makers = Mapping[str, Callable[[], Step]]

CONTENDERS: Mapping[str, Makers] = {
    "AdamW": {
        FUSED: fused,
        PLAIN: two_objects,
        "`adamw_warmup_cosine_decay`": partial(ours, "adamw_warmup_cosine_decay", peak_lr=1e-3, warmup_steps=100),
        "`adamw`": partial(ours, "adamw", **ADAMW),
        "`adamw`, compiled": partial(ours, "adamw", **ADAMW, implementation="compiled"),
        **({"`adamw`, compiled, moments in bfloat16": in_bfloat16} if DEVICE == "cpu" else {}),
        "heavyball.AdamW": heavyballs,
    },
    "Cautious AdamW": {
        FUSED: fused,
        "`adamw`, cautious": partial(ours, "adamw", **CAUTIOUS),
        "`adamw`, cautious, compiled": partial(ours, "adamw", **CAUTIOUS, implementation="compiled"),
        "`adamw`, cautious, the reference": partial(ours, "adamw", **CAUTIOUS, implementation="single"),
        "heavyball.AdamW(caution=True), not compiled": partial(heavyballs, caution=True),
        "pytorch_optimizer.AdamP(cautious=True), with its projection": adamp,
        **({"timm AdamWLegacy(caution=True)": timm_cautious} if find_spec("timm") else {}),
    },
    "Schedule-free RAdam": {
        "schedulefree.RAdamScheduleFree": radam,
        "`schedule_free_radam`": lambda: started(ours("schedule_free_radam", lr=1e-3)),
        "`schedule_free_radam`, compiled": lambda: started(
            ours("schedule_free_radam", lr=1e-3, implementation="compiled")
        ),
    },
}
"""Functions that make the steps to compare, by title. The first of each is what the others are compared with."""


WORDS = {
    **dict.fromkeys((FUSED, "`adamw_warmup_cosine_decay`", "`adamw`", "`adamw`, compiled"), 7),
    "`adamw`, cautious, compiled": 9,
    "`schedule_free_radam`, compiled": 7,
}
"""How many words a parameter a step reads and writes at least, where it comes near to that."""


def copy_words() -> float:
    """Return how many words of float32 a second a copy reads and writes here."""
    source = torch.cat([p.detach().flatten() for p in parameters()])
    target = torch.empty_like(source)
    return 2 * source.numel() / medians({"": lambda: target.copy_(source)}, rounds=15)[""]


def together(title: str) -> dict[str, float]:
    """Return the seconds of a step of each contender, taking turns in this process."""
    return medians({name: make() for name, make in CONTENDERS[title].items()}, rounds=15, calls=CALLS)


def alone(title: str, rounds: int = 3) -> dict[str, float]:
    """Return the seconds of a step of each contender, in processes that do nothing else and take turns."""
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS[title]}
    for _ in range(rounds):
        for name, measured in times.items():
            command = [sys.executable, __file__, title, name]
            measured.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {name: statistics.median(measured) for name, measured in times.items()}


def memory() -> str:
    """Return a table of what a step takes at most beside parameters, gradients and state, against the parameters."""
    whole = sum(p.numel() * p.element_size() for p in parameters())
    rows = ["| | MB | of the parameters |", "|---|---|---|"]
    for name, make in {name: make for makers in CONTENDERS.values() for name, make in makers.items()}.items():
        step = make()
        step()
        step()
        extra = extra_memory(step)
        rows.append(f"| {name} | {extra / 1e6:.0f} | {extra / whole:.2f} |")
    return "\n".join(rows)


def steps_table(times: Mapping[str, float], own: Mapping[str, float]) -> str:
    """Return a Markdown table of times side by side and of those in processes of their own, with their ratios."""
    first = next(iter(times))
    rows = ["| | ms | ratio | on its own, ms | ratio |", "|---|---|---|---|---|"]
    for name in times:
        cells = [f"{each[name] * 1e3:.1f} | {each[name] / each[first]:.2f}" for each in (times, own)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shares(times: Mapping[str, float]) -> str:
    """Return what share of a copy's bandwidth each step comes to; nothing on a CPU, where a copy is no measure."""
    if DEVICE == "cpu":
        return ""
    count, bandwidth = sum(p.numel() for p in parameters()), copy_words()
    found = {name: WORDS[name] * count / times[name] / bandwidth for name in times if name in WORDS}
    return "Of a copy's bandwidth: " + ", ".join(f"{name} {share:.0%}" for name, share in found.items())


def main() -> None:
    """Measure and print the tables; given a title and a name, the seconds of that contender alone."""
    if len(sys.argv) == 3:
        _, title, name = sys.argv
        print(medians({name: CONTENDERS[title][name]()}, rounds=15, calls=CALLS)[name])
        return
    print(machine())
    for title in CONTENDERS:
        times = together(title)
        print(f"\n{title}\n\n{steps_table(times, alone(title))}\n{shares(times)}", flush=True)
    print(f"\n{memory()}")


if __name__ == "__main__":
    main()
