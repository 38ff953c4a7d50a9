"""The steps, loops and checkpoints on a CUDA device: prints the tables of docs/benchmarks.md, "On a GPU".

Given names of sections, those alone."""

import gc
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial

import checkpoints
import loop
import optimizers
import scaling
import step_overhead
import torch
from measuring import DEVICE, machine, medians, table
from optimizers import ADAMW, CALLS, CAUTIOUS, CONTENDERS, FUSED, parameters, started

SMALL = [(64, 64)] * 2000


def steps(title: str) -> str:
    """Return the table of one step over 402.8 million parameters, of the contenders of that title."""
    times = optimizers.together(title)
    return f"{table(times, next(iter(times)))}\n\n{optimizers.shares(times)}"


def bandwidth() -> str:
    """Return how fast a copy is."""
    return f"A copy reads and writes {optimizers.copy_words() * 4 / 1e9:.0f} GB/s."


def halves() -> str:
    """Return the table of Adam's moments in bfloat16, which torch's kernel may not take on a device."""
    try:
        in_bfloat16 = optimizers.ours("adamw", **ADAMW, state_dtype="bfloat16")
    except ValueError as error:
        return f"Refused: {error}"
    times = medians({FUSED: optimizers.fused(), "`adamw`, moments in bfloat16": in_bfloat16}, rounds=15, calls=CALLS)
    return table(times, FUSED)


def many_tensors() -> str:
    """Return the table of one step over 2,000 small tensors, whose launch is most of it."""
    ours = partial(optimizers.ours, shapes=SMALL)
    functions: dict[str, Callable[[], object]] = {
        FUSED: torch.optim.AdamW(parameters(SMALL), lr=1e-3, fused=True).step,
        "torch AdamW": torch.optim.AdamW(parameters(SMALL), lr=1e-3).step,
        "`adamw`": ours("adamw", **ADAMW),
        "`adamw`, compiled": ours("adamw", **ADAMW, implementation="compiled"),
        "`adamw`, cautious, compiled": ours("adamw", **CAUTIOUS, implementation="compiled"),
        "`schedule_free_radam`": started(ours("schedule_free_radam", lr=1e-3)),
        "`schedule_free_radam`, compiled": started(ours("schedule_free_radam", lr=1e-3, implementation="compiled")),
    }
    return table(medians(functions, rounds=15, calls=CALLS), FUSED)


def overhead() -> str:
    """Return the table of one step over 32 parameters."""
    return table(medians(step_overhead.contenders(), rounds=31, calls=400), FUSED, "us")


SECTIONS: dict[str, Callable[[], str]] = {
    "bandwidth": bandwidth,
    **{title: partial(steps, title) for title in CONTENDERS},
    "memory": optimizers.memory,
    "halves": halves,
    "many_tensors": many_tensors,
    "overhead": overhead,
    "components": scaling.hundred_components,
    "growth": lambda: "\n\n".join(scaling.all_growth()),
    "loops": lambda: table(loop.times(), "written by hand", "us"),
    "checkpoints": checkpoints.measured,
}


def main() -> None:
    """Measure and print."""
    assert DEVICE == "cuda", "there is no CUDA device here"
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(machine(), flush=True)
    for name in sys.argv[1:] or SECTIONS:
        print(f"\n## {name}\n\n{SECTIONS[name]()}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
