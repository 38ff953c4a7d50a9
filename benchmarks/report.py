"""Runs all benchmarks and writes their results to docs/benchmarks.md, with bars in docs/figures/benchmarks.png.

Every number in the page's text is computed from the results. The part from the heading `KEPT` on is kept as it is.
"""

import logging
import statistics
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill

import checkpoints
import import_time
import loop
import optimizers
import scaling
import step_overhead
import tools_at_scale
from matplotlib.figure import Figure
from measuring import machine, medians, table

DOCS = Path(__file__).parent.parent / "docs"
OURS, OTHERS = "tab:blue", "tab:gray"

PEERS = ("schedulefree", "heavyball", "pytorch_optimizer", "timm", "accelerate", "lightning")
WIDTH = 120
"""Of a line of the page."""
KEPT = "## Measured separately"
"""Heading of the part of the page that no benchmark here writes."""

PAGE = """# Benchmarks

`make bench` measures again and writes this page down to "Measured separately". Measured on {machine},
with {peers}.

- Times are medians of rounds in which all contenders take turns in one process.
- The base of every ratio is the row with 1.00 in its table; below 1 is faster than the base.
- The spread between rounds is not recorded. On a shared machine, times differ by a half from hour to hour: quote the
  ratios, not the times. For steps, two measurements are shown.
- Everything down to "Measured separately" is on a CPU; [On a GPU](#on-a-gpu) is at the end.

![The steps and the loops as bars](figures/benchmarks.png)

## One step over 25.2 million parameters

24 matrices of 1024 × 1024 and 48 vectors of 1024, float32 (`benchmarks/optimizers.py`). Ratios are to torch's fused
AdamW, and in the last table to the library's own class. The left pair of columns is from one process in which all take
turns, the right pair from separate processes for each row, medians of three. There a step that allocates some megabytes
gets them from the system each time, and pays for its pages; in training, where larger tensors come and go, the process
may have that memory already.

{agreement}

{steps}

Peak memory of a step beside parameters, gradients and state (the parameters are 101 MB):

{memory}

## One step over 32 parameters

4 tensors of 8 elements, where only the overhead around the mathematics is left (`benchmarks/step_overhead.py`).

{overhead}

{schedule_cost}

`adamw_warmup_cosine_decay` leaves out torch's sorting of tensors by device and type, and checks before each step that
the kernel can read every gradient and state.

## Whole loops

1,000 updates of two small MLPs on batches of 32 digits, one optimizer each (`benchmarks/loop.py`). innerstep also
writes metrics and a checkpoint, and checks the loss and the gradients for NaN and infinity before each step, which no
other loop here does (`train.on_nonfinite: continue` turns it off).

{loops}

{loop_cost}

The model is a toy: in an update of a realistic model, which takes tens of milliseconds or more, these differences
vanish.

## Many components, tensors, parameters

100 components of 4 tensors of 8 elements (`benchmarks/scaling.py`):

{hundred}

{growth}

## Checkpoints

25.2 million parameters in three components and their AdamW state, 302 MB (`benchmarks/checkpoints.py`). innerstep's are
files per component with checksums, flushed to the disk; all of them save where the same amount was just removed. A load
verifies every checksum first. With `save_async`, training waits for the copy only.

{checkpoints}

## Tools with many parameters, components, and lines of metrics

CPU time of whole commands on one thread, and the peak growth of the process, each in a separate process
(`benchmarks/tools_at_scale.py`). About 170 MB of the growth of commands that train or plan are imported libraries.

{tools}

A run with thousands of parameter groups in one optimizer is slower than linear: torch goes through all groups for each
parameter.

## Imports

Whole processes, medians of 11, bytecode compiled before (`benchmarks/import_time.py`).

{imports}

"""

Times = Mapping[str, float]


def peers() -> str:
    """Return the libraries that are compared with, and their versions."""
    installed = [name for name in PEERS if find_spec(name) is not None]
    return ", ".join(f"{name} {version(name)}" for name in installed)


def agreement(pairs: Sequence[tuple[Times, Times]]) -> str:
    """Return by how much the ratios of contenders differ between one process and separate ones, as a sentence."""
    apart: dict[str, float] = {}
    for together, alone in pairs:
        first, *others = together
        for name in others:
            ratios = together[name] / together[first], alone[name] / alone[first]
            apart[name] = max(ratios) / min(ratios) - 1
    worst = max(apart, key=lambda name: apart[name])
    return fill(
        f"The ratios of the two pairs differ by {statistics.median(apart.values()):.0%} in the median, and by"
        f" {apart[worst]:.0%} at most ({worst}).",
        WIDTH,
    )


def schedule_cost(times: Times) -> str:
    """Return what the schedule costs inside and beside an optimizer, as sentences."""
    bare, beside = times["torch AdamW(fused=True)"], times["torch AdamW(fused=True) + LambdaLR"]
    inside = times["the same class with a schedule inside, `scheduled(AdamW)`"]
    ours = times["`adamw_warmup_cosine_decay`"]
    costs = [f"{(seconds - bare) * 1e6:.1f} µs" for seconds in (beside, inside, ours)]
    return fill(
        f"Against the bare fused class, a `LambdaLR` beside it costs {costs[0]} per step, the schedule inside the same"
        f" class {costs[1]}, and `adamw_warmup_cosine_decay` {costs[2]}.",
        WIDTH,
    )


def loop_cost(times: Times) -> str:
    """Return what each loop costs beyond the one that is written by hand, as a sentence."""
    (_, base), *others = times.items()
    costs = ", ".join(f"{name} {(seconds - base) * 1e6:.0f} µs" for name, seconds in others)
    return fill(f"Overhead per update against the loop written by hand: {costs}.", WIDTH)


def draw(charts: Mapping[str, Times]) -> None:
    """Draw a panel of bars for each chart: seconds by name, innerstep in another colour."""
    figure = Figure(figsize=(9, 1.2 + 0.34 * sum(len(times) + 1 for times in charts.values())), layout="constrained")
    axes = figure.subplots(len(charts), 1, height_ratios=[len(times) + 1 for times in charts.values()])
    for axis, (title, times) in zip(axes, charts.items(), strict=True):
        names = [name.replace("`", "") for name in times]
        colours = [OURS if "`" in name or name == "innerstep" else OTHERS for name in times]
        bars = axis.barh(names, [seconds * 1e3 for seconds in times.values()], color=colours)
        axis.bar_label(bars, fmt=" {:.3g} ms")
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize="medium")
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("ms, less is better; innerstep is blue")
    figure.savefig(DOCS / "figures" / "benchmarks.png", dpi=110)


def main() -> None:
    """Measure, write and draw."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    together = {title: optimizers.together(title) for title in optimizers.CONTENDERS}
    alone = {title: optimizers.alone(title) for title in optimizers.CONTENDERS}
    tables = [
        f"**{title}**\n\n{optimizers.steps_table(times, alone[title])}\n{optimizers.shares(times)}".rstrip()
        for title, times in together.items()
    ]
    overhead = medians(step_overhead.contenders(), rounds=31, calls=400)
    loops = loop.times()
    page = PAGE.format(
        machine=machine(),
        peers=peers(),
        agreement=agreement([(together[title], alone[title]) for title in together]),
        steps="\n\n".join(tables),
        memory=optimizers.memory(),
        overhead=table(overhead, "torch AdamW(fused=True)", "us"),
        schedule_cost=schedule_cost(overhead),
        loops=table(loops, "written by hand", "us"),
        loop_cost=loop_cost(loops),
        hundred=scaling.hundred_components(),
        growth="\n\n".join(scaling.all_growth()),
        checkpoints=checkpoints.measured(),
        tools=tools_at_scale.measured(),
        imports=import_time.measured(),
    )
    path = DOCS / "benchmarks.md"
    _, heading, kept = path.read_text(encoding="utf-8").partition(KEPT)
    path.write_text(page + heading + kept, encoding="utf-8")
    draw({**{f"{title}, one step": times for title, times in together.items()}, "A loop, one update": loops})


if __name__ == "__main__":
    main()
