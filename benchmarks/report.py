"""Writes docs/benchmarks.md and its figure from the results that sections.py keeps: `report.py FOLDER`.

Every number in the page's text is computed from the results. The part from the heading `KEPT` on is kept as it is.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import bandwidth
import checkpoints
import import_time
import scaling
from bars import draw
from measuring import table
from results import Run, Times, at, limit, medians, read
from step_tables import TITLES, WIDTH, agreement, bandwidth_sentence, bandwidth_table, memory_table, steps
from tensors import SHAPES, elements
from top_table import OF_LIMIT, top_table

DOCS = Path(__file__).parent.parent / "docs"
KEPT = "## Measured separately"
"""Heading of the part of the page that is not written here."""
NOT_MEASURED = "Not measured."

PAGE = """# Benchmarks

`make bench` measures again and writes this page down to "Measured separately". Measured on
{machine},
{peers}.

## Defaults

{introduction}

{top}

{goals}

{defaults}

- Times are medians of rounds in which all contenders take turns in one process, and in the tables below medians over
  the runs.
- The base of every ratio is the row with 1.00 in its table; below 1 is faster than the base.
- On a shared machine, times differ by a half from hour to hour: quote the ratios, not the times.
- Everything down to "Measured separately" is on a CPU; [On a GPU](#on-a-gpu) is at the end.

![The steps and the loops as bars](figures/benchmarks.png)

## One step over 25.2 million parameters

24 matrices of 1024 × 1024 and 48 vectors of 1024, float32 unless the title has another type
(`benchmarks/optimizers.py`). The first pair of columns is from one process in which all take turns. For the second,
each row has a new process, and these take turns, so that all see the same minutes of the machine
(`benchmarks/process_turns.py`). There a step that allocates some megabytes gets them from the system each time, and
pays for its pages; in training, where larger tensors come and go, the process may have that memory already.

Peers take their fastest way on a CPU (`benchmarks/peers.py`). AdamW8bit keeps moments of 8 bits; the others compute
what torch's AdamW computes. In the clipped rows, each step scales the gradients.

{agreement}

{steps}

### The limit

The bytes that a step must read and write, divided by the bandwidth of simple operations over as many elements, which
take turns with the steps (`benchmarks/bandwidth.py`). AdamW must move 7 words of 4 bytes a parameter, and so must
schedule-free and cautious steps; clipping 8, moments in bfloat16 5, moments of 8 bits 4, and parameters in bfloat16 3.5
with their moments, 4.5 with the rest of the rounding.

{bandwidths}

{limits}

### Memory

Peak memory of a step beside parameters, gradients and state (the parameters are {whole} MB):

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

## Imports and first updates

Whole processes, bytecode compiled before (`benchmarks/import_time.py`).

{imports}

To the plan and the first update of `configs/digits.yaml`, in rounds with `import torch`
(`benchmarks/first_update.py`):

{starts}

The first use of a compiled step in a process, where no library is kept yet and where one is
(`benchmarks/first_use.py`):

{first_use}

"""


def introduction(runs: int) -> str:
    """Return the text above the first table, for so many runs."""
    return fill(
        "What a user gets who sets nothing, against each peer. A ratio is the worst of"
        f" {runs} runs, to the time named beside it: below 1 is faster. A step has two ratios: side by side"
        " with its peers in one process, and each in a new one; for peers without a goal, side by side. `of the limit`"
        " is how many times the time a step takes that its bytes need at the [bandwidth of the memory](#the-limit),"
        f" measured in the same turns; its goal is {OF_LIMIT}.",
        WIDTH,
    )


def peers(versions: Mapping[str, str | None]) -> str:
    """Return the libraries that are compared with, and their versions."""
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    lacking = ", ".join(name for name, version in versions.items() if version is None)
    return fill(f"with {there or 'no peers'}" + (f"; not installed: {lacking}" if lacking else ""), WIDTH)


def defaults(implementations: Mapping[str, str]) -> str:
    """Return how `auto` takes steps over so many parameters."""
    taken = ", ".join(f"{name}: {implementation}" for name, implementation in implementations.items())
    return fill(f"Over 25.2 million parameters `implementation: auto` takes these steps: {taken}.", WIDTH)


def goals(total: int, met: int) -> str:
    """Return how many of the goals are met, as a sentence."""
    rest = "" if met == total else " The ratios that miss theirs are in bold."
    return f"{met} of {total} goals are met in each run.{rest}"


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


def parts(runs: Sequence[Run]) -> dict[str, str]:
    """Return the parts of the page that one section has the results of."""
    overhead, loops, hundred = (medians(runs, path) for path in ("overhead", "loops", "hundred"))
    starts, first_use = medians(runs, "starts"), medians(runs, "first use")
    found = {name: medians(runs, f"checkpoints/{name}") for name in ("saves", "loads")}
    growth = {title: at(runs[0], f"growth/{title}") for title in runs[0].get("growth", {})}
    return {
        "overhead": _table(overhead, "us"),
        "schedule_cost": schedule_cost(overhead) if overhead else NOT_MEASURED,
        "loops": _table(loops, "us"),
        "loop_cost": loop_cost(loops) if loops else NOT_MEASURED,
        "hundred": _table(hundred, "us"),
        "growth": "\n\n".join(scaling.growth_table(title, each) for title, each in growth.items()) or NOT_MEASURED,
        "checkpoints": checkpoints.tables(found) if all(found.values()) else NOT_MEASURED,
        "imports": import_time.table(medians(runs, "imports")),
        "starts": import_time.table(starts) if starts else NOT_MEASURED,
        "first_use": _milliseconds(first_use),
        "tools": runs[0].get("tools", NOT_MEASURED),
    }


def _table(times: Times, unit: str) -> str:
    return table(times, next(iter(times)), unit) if times else NOT_MEASURED


def _milliseconds(times: Times) -> str:
    return "\n".join(["| | ms |", "|---|---|", *(f"| {name} | {each * 1e3:.1f} |" for name, each in times.items())])


def page(runs: Sequence[Run]) -> str:
    """Return the page down to the part that is kept."""
    count = elements(SHAPES)
    whole = bandwidth.WORD * count
    shown, total, met = top_table(runs, count)
    about = runs[0].get("about", {})
    return PAGE.format(
        machine=about.get("machine", "an unknown machine"),
        peers=peers(about.get("versions", {})),
        introduction=introduction(len(runs)),
        top=shown,
        goals=goals(total, met),
        defaults=defaults(about.get("implementations", {})),
        agreement=agreement(runs),
        steps=steps(runs, count),
        bandwidths=bandwidth_table(runs, bandwidth.WORDS),
        limits=bandwidth_sentence(runs, count),
        whole=round(whole / 1e6),
        memory=memory_table(at(runs[0], "memory"), whole),
        **parts(runs),
    )


def charts(runs: Sequence[Run]) -> tuple[dict[str, Times], dict[str, Times]]:
    """Return the panels of the figure, and the limits of their steps."""
    panels: dict[str, Times] = {}
    limits: dict[str, Times] = {}
    for title in TITLES:
        if times := medians(runs, f"{title}/together"):
            panels[f"{title}, one step"] = times
            least = {name: limit(runs[0], title, name, elements(SHAPES)) for name in times}
            limits[f"{title}, one step"] = {name: each for name, each in least.items() if each is not None}
    loops = medians(runs, "loops")
    return {**panels, **({"A loop, one update": loops} if loops else {})}, limits


def main() -> None:
    """Write and draw."""
    runs = read(Path(sys.argv[1]))
    path = DOCS / "benchmarks.md"
    _, heading, kept = path.read_text(encoding="utf-8").partition(KEPT)
    path.write_text(page(runs) + heading + kept, encoding="utf-8")
    draw(DOCS / "figures" / "benchmarks.png", *charts(runs))


if __name__ == "__main__":
    main()
