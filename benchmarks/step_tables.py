"""Tables and sentences of docs/benchmarks.md about single steps, from the results of the runs."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import fill

from names import CAUTIOUS, COPY
from results import Run, at, limit, medians, ratio, spread

WIDTH = 120
"""Of a line of the page."""
TITLES = ("AdamW", "Clipped AdamW", "Cautious AdamW", "Schedule-free RAdam", "AdamW, parameters in bfloat16")
ADAMW_WORDS, WORDS_WITHOUT_CACHE = 7, 9
"""The bytes that a cautious step must move for each parameter: with the second reading from a cache, and without."""

EXPLANATION = (
    "A store first reads the line that it writes to, unless that was read anyway: a copy of 2 words moves 3. A step"
    " reads what it writes, so it moves its words faster than a copy does."
)


def steps(runs: Sequence[Run], elements: int) -> str:
    """Return a table for each title."""
    tables = [f"**{title}**\n\n{step_table(runs, title, elements)}{left_out(runs, title)}" for title in TITLES]
    return "\n\n".join(tables)


def step_table(runs: Sequence[Run], title: str, elements: int) -> str:
    """Return the medians of the runs side by side and in new processes, and how many times its limit a step takes."""
    together, alone = (medians(runs, f"{title}/{way}") for way in ("together", "alone"))
    lines = ["| | ms | ratio | on its own, ms | ratio | limit, ms | of it |", "|---|---|---|---|---|---|---|"]
    for name, seconds in together.items():
        cells = [name]
        for way, times in (("together", together), ("alone", alone)):
            cells += [f"{times[name] * 1e3:.1f}", _median_ratio(runs, f"{title}/{way}", name, next(iter(together)))]
        limits = [found for run in runs if (found := limit(run, title, name, elements)) is not None]
        least = statistics.median(limits) if limits else None
        cells += ["", ""] if least is None else [f"{least * 1e3:.1f}", f"{seconds / least:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median_ratio(runs: Sequence[Run], path: str, name: str, against: str) -> str:
    found = [each for run in runs if (each := ratio(run, path, name, against)) is not None]
    return f"{statistics.median(found):.2f}" if found else ""


def left_out(runs: Sequence[Run], title: str) -> str:
    """Return a line for each contender that did not run, with the reason."""
    reasons: dict[str, str] = {}
    for run in runs:
        reasons |= run.get(title, {}).get("left_out", {})
    lines = [
        fill(f"- {name} did not run: `{reason}`", WIDTH, subsequent_indent="  ") for name, reason in reasons.items()
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def bandwidths(runs: Sequence[Run]) -> dict[str, float]:
    """Return the median bandwidth of each operation over all titles and runs."""
    found: dict[str, list[float]] = {}
    for run, title in product(runs, TITLES):
        for name, value in at(run, f"{title}/bandwidths/together").items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def bandwidth_table(runs: Sequence[Run], words: Mapping[str, int]) -> str:
    """Return the bandwidth that each operation reaches."""
    lines = ["| | words | GB/s |", "|---|---|---|"]
    found = bandwidths(runs)
    lines += [f"| {name} | {words.get(name, '')} | {value / 1e9:.1f} |" for name, value in found.items()]
    return "\n".join(lines)


def bandwidth_sentence(runs: Sequence[Run], elements: int) -> str:
    """Return which bandwidth the limits are of, and how those of the others would be."""
    found = bandwidths(runs)
    if not found:
        return "The bandwidth was not measured."
    best = max(found, key=lambda name: found[name])
    longer = found[best] / found[COPY]
    chosen = (
        f"{EXPLANATION} The limits in the tables are those of the stricter one, {best}; those of {COPY} would be"
        f" {longer:.2f} times as long. The bound is not strict: a step reads several tensors at a time, and can be some"
        " percent faster."
    )
    return fill(chosen + _twice_read(runs, elements), WIDTH)


def _twice_read(runs: Sequence[Run], elements: int) -> str:
    title, name = "Cautious AdamW", CAUTIOUS
    seconds = medians(runs, f"{title}/together").get(name)
    limits = [found for run in runs if (found := limit(run, title, name, elements)) is not None]
    if seconds is None or not limits:
        return ""
    with_memory = statistics.median(limits) * WORDS_WITHOUT_CACHE / ADAMW_WORDS
    return (
        f" The limit of cautious steps is that of {ADAMW_WORDS} words: a matrix's gradient and moment come from a cache"
        f" when they are read again. If they came from memory, {WORDS_WITHOUT_CACHE} words, {name} would take"
        f" {seconds / with_memory:.2f} times the limit."
    )


def agreement(runs: Sequence[Run]) -> str:
    """Return how much ratios differ between the runs, and between one process and new ones."""
    paths = [f"{title}/together" for title in TITLES if any(at(run, f"{title}/together") for run in runs)]
    between = spread(runs, paths)
    apart: dict[str, float] = {}
    for title in TITLES:
        together, alone = (medians(runs, f"{title}/{way}") for way in ("together", "alone"))
        first, *others = together or [""]
        for name in others:
            ratios = together[name] / together[first], alone[name] / alone[first]
            apart[f"{title}: {name}"] = max(ratios) / min(ratios) - 1
    sentences = [
        _differ(f"Between the {len(runs)} runs", between if len(runs) > 1 else {}),
        _differ("Between one process and new ones", apart),
    ]
    return fill(" ".join(filter(None, sentences)), WIDTH)


def _differ(what: str, apart: Mapping[str, float]) -> str:
    if not apart:
        return ""
    most = max(apart, key=lambda name: apart[name])
    median = statistics.median(apart.values())
    return f"{what}, ratios differ by {median:.0%} in the median, and by {apart[most]:.0%} at most ({most})."


def memory_table(shares: Mapping[str, float], whole: int) -> str:
    """Return the memory of steps beside parameters, gradients and state, in MB and as shares of the parameters."""
    lines = ["| | MB | of the parameters |", "|---|---|---|"]
    lines += [f"| {name} | {share * whole / 1e6:.0f} | {share:.2f} |" for name, share in shares.items()]
    return "\n".join(lines)
