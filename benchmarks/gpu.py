"""The steps, loops and checkpoints on a CUDA device: prints the tables of docs/benchmarks.md, "On a GPU".

Given names of sections, those alone."""

import gc
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import bandwidth
import checkpoints
import loop
import optimizers
import peers
import scaling
import step_overhead
import torch
from measuring import DEVICE, machine, medians, table
from names import ALL, COPY, FUSED
from optimizers import ADAMW, CALLS, TITLES, WITH_CAUTION
from peers import started
from step_tables import memory_table
from tensors import SHAPES, elements, parameters

SMALL = [(64, 64)] * 2000


def steps(title: str) -> str:
    """Return the table of one step over 402.8 million parameters, of the contenders of that title."""
    times, rates, left_out = optimizers.together(title)
    lines = [f"{name} did not run: {reason}" for name, reason in left_out.items()]
    return "\n\n".join([table(times, next(iter(times))), of_a_copy(title, times, rates[COPY]), *lines])


def of_a_copy(title: str, times: Mapping[str, float], copied: float) -> str:
    """Return the share of a copy's bandwidth at which each step moves the bytes that it must move."""
    least = {name: each * elements(SHAPES) / copied for name, each in optimizers.bytes_of(title).items()}
    return "Of a copy's bandwidth: " + ", ".join(f"{name} {least[name] / times[name]:.0%}" for name in times)


def bandwidths() -> str:
    """Return how fast simple operations are."""
    return ", ".join(f"{name} {each / 1e9:.0f} GB/s" for name, each in bandwidth.bandwidths().items())


def halves() -> str:
    """Return the table of Adam's moments in bfloat16, which torch's kernel may not take on a device."""
    try:
        in_bfloat16 = optimizers.ours("adamw", **ADAMW, state_dtype="bfloat16")
    except ValueError as error:
        return f"Refused: {error}"
    times = medians({FUSED: peers.fused(), "`adamw`, moments in bfloat16": in_bfloat16}, rounds=15, calls=CALLS)
    return table(times, FUSED)


def many_tensors() -> str:
    """Return the table of one step over 2,000 small tensors, whose launch is most of it."""
    ours = partial(optimizers.ours, shapes=SMALL)
    functions: dict[str, Callable[[], object]] = {
        FUSED: torch.optim.AdamW(parameters(SMALL), lr=1e-3, fused=True).step,
        "torch AdamW": torch.optim.AdamW(parameters(SMALL), lr=1e-3).step,
        "`adamw`": ours("adamw", **ADAMW),
        "`adamw`, compiled": ours("adamw", **ADAMW, implementation="compiled"),
        "`adamw`, cautious, compiled": ours("adamw", **WITH_CAUTION, implementation="compiled"),
        "`schedule_free_radam`": started(ours("schedule_free_radam", lr=1e-3)),
        "`schedule_free_radam`, compiled": started(ours("schedule_free_radam", lr=1e-3, implementation="compiled")),
    }
    return table(medians(functions, rounds=15, calls=CALLS), FUSED)


def overhead() -> str:
    """Return the table of one step over 32 parameters."""
    return table(medians(step_overhead.contenders(), rounds=31, calls=400), FUSED, "us")


SECTIONS: dict[str, Callable[[], str]] = {
    "bandwidth": bandwidths,
    **{title: partial(steps, title) for title in TITLES},
    "memory": lambda: memory_table(optimizers.memory(), optimizers.whole()),
    "halves": halves,
    "many_tensors": many_tensors,
    "overhead": overhead,
    "components": lambda: table(scaling.hundred_components(), ALL, "us"),
    "growth": lambda: "\n\n".join(scaling.growth_table(*each) for each in scaling.all_growth().items()),
    "loops": lambda: table(loop.times(), "written by hand", "us"),
    "checkpoints": lambda: checkpoints.tables(checkpoints.times()),
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
