"""Runs all benchmarks and writes what they saw to docs/benchmarks.md, with bars in docs/figures/benchmarks.png."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import checkpoints
import import_time
import loop
import optimizers
import scaling
import step_overhead
import tools_at_scale
from matplotlib.figure import Figure
from measuring import machine, table

DOCS = Path(__file__).parent.parent / "docs"
OURS, OTHERS = "tab:blue", "tab:gray"

PAGE = """# Benchmarks

`make bench` measures all of this anew and writes this page; `make soak` is for the last part. Seen on {machine}.
Times are medians of rounds in which all that is compared takes turns in one process; quote the ratios, not the times,
which differ by a half from hour to hour on a machine that is shared.

![The steps and the loops as bars](figures/benchmarks.png)

## One step over 25.2 million parameters

24 matrices of 1024 × 1024 and 48 vectors of 1024, float32 (`benchmarks/optimizers.py`). Ratios are to torch's fused
AdamW, and for the last table to the library's own class. The two columns to the left are of one process in which all
take turns; those to the right of processes that take such steps only, medians of three. There a step that asks for
memory of some megabytes gets it from the system each time, and pays for its pages; where larger tensors come and go, as
in training, the process may have that memory already.

{steps}

What a step takes at most beside parameters, gradients and state (the process's peak; the parameters are 101 MB):

{memory}

## One step of almost nothing

4 tensors of 8 elements, where only what is around the mathematics is left (`benchmarks/step_overhead.py`).

{overhead}

The schedule inside costs what a `LambdaLR` beside it costs, 4 to 6 µs; ours is faster than the bare class all the
same, as it leaves out torch's sorting of tensors by device and type.

## Whole loops

1,000 updates of two small MLPs on batches of 32 digits, one optimizer each (`benchmarks/loop.py`). Ours writes
metrics and a checkpoint besides.

{loops}

## Many components, tensors, parameters

100 components of 4 tensors of 8 elements (`benchmarks/scaling.py`):

{hundred}

{growth}

## Checkpoints

25.2 million parameters in three components and their AdamW state, 302 MB (`benchmarks/checkpoints.py`). Ours are
files by component with checksums, flushed to the disk; everyone saves where as much was just removed. A load checks
every checksum first. How long training waits with `save_async` is the copy.

{checkpoints}

## Tools with many parameters, components, and lines of metrics

CPU time of whole commands on one thread, and by how much the process grows at most, each in a process of its own
(`benchmarks/tools_at_scale.py`). About 170 MB of the growth of those that train or plan are libraries that they import.

{tools}

## Imports

Whole processes, medians of 11, bytecode compiled before (`benchmarks/import_time.py`).

{imports}

## Kills

The demo killed by SIGKILL at a random moment and resumed (`benchmarks/kill_and_resume.py`, seeds 1 and 7, ten runs
each): 20 of 20 ended byte-identical to the uninterrupted run in weights, optimizer state, random states and metrics.
The kills fell anywhere from before the run directory existed to 14 s into 16 s.

Not measured yet: anything on a GPU.
"""


def draw(charts: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a panel of bars for each chart: seconds by name, ours in another colour."""
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
    steps = {title: optimizers.together(title) for title in optimizers.CONTENDERS}
    tables = [
        f"**{title}**\n\n{optimizers.steps_table(times, optimizers.alone(title))}\n{optimizers.shares(times)}".rstrip()
        for title, times in steps.items()
    ]
    loops = loop.times()
    page = PAGE.format(
        machine=machine(),
        steps="\n\n".join(tables),
        memory=optimizers.memory(),
        overhead=step_overhead.measured(),
        loops=table(loops, "written by hand", "us"),
        hundred=scaling.hundred_components(),
        growth="\n\n".join(scaling.all_growth()),
        checkpoints=checkpoints.measured(),
        tools=tools_at_scale.measured(),
        imports=import_time.measured(),
    )
    (DOCS / "benchmarks.md").write_text(page, encoding="utf-8")
    draw({**{f"{title}, one step": times for title, times in steps.items()}, "A loop, one update": loops})


if __name__ == "__main__":
    main()
