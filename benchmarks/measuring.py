"""Interleaved rounds of several functions in one process, and their medians."""

import ctypes
import gc
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Prepared:
    """A function with something to do before each turn, which is not timed."""

    function: Callable[[], object]
    prepare: Callable[[], object]

    def __call__(self) -> object:
        """Call the function."""
        return self.function()


Functions = Mapping[str, Callable[[], object]]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where tensors are, and by whose clock calls are timed."""
SHORT = os.environ.get("INNERSTEP_BENCHMARKS") == "short"
"""Whether everything is small and nothing compiled by torch: a trial of the benchmarks, whose figures mean nothing."""
if SHORT:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
SLOW_SECONDS, SLOW_TURNS = 0.1, 5
"""A function that takes longer than that on a CPU takes so many turns at most."""


def medians(functions: Functions, rounds: int, calls: int = 1) -> dict[str, float]:
    """Return the median time of one call of each function, in seconds.

    They take turns in each of `rounds`, in an order of chance: what one leaves behind, in the caches and in freed
    memory, is not always the same one's lot.
    """
    for function in functions.values():  # states are made, code is compiled
        function()
        function()
    return rounds_of(functions, lambda name: seconds_of(functions[name], calls) / calls, rounds, calls)


def rounds_of(names: Iterable[str], turn: Callable[[str], float], rounds: int, calls: int) -> dict[str, float]:
    """Return for each name the median of the seconds that `turn` returns in so many rounds, for one of `calls`."""
    order, chance = list(names), random.Random(0)
    rounds = min(rounds, 2) if SHORT else rounds
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            if len(times[name]) < SLOW_TURNS or DEVICE == "cuda" or min(times[name]) * calls < SLOW_SECONDS:
                times[name].append(turn(name))
    return {name: statistics.median(measured) for name, measured in times.items()}


def table(times: Mapping[str, float], against: str, unit: str = "ms") -> str:
    """Return a Markdown table of times, and of their ratios to that of `against`."""
    factor = {"ms": 1e3, "us": 1e6, "s": 1.0}[unit]
    rows = [f"| | {unit.replace('us', 'µs')} | ratio |", "|---|---|---|"]
    rows += [f"| {name} | {seconds * factor:.1f} | {seconds / times[against]:.2f} |" for name, seconds in times.items()]
    return "\n".join(rows)


def extra_memory(function: Callable[[], object]) -> int:
    """Return by how many bytes a call makes the process (on Linux), or what is taken of a CUDA device, grow at most."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    function()
    return max(0, _status("VmHWM") - before)


def machine() -> str:
    """Return what the figures were seen on."""
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} cores"
    return f"{device}, {platform.machine()}, Python {platform.python_version()}, torch {version('torch')}"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def seconds_of(function: Callable[[], object], calls: int) -> float:
    """Return how long so many calls take: on a CUDA device by its own clock."""
    if isinstance(function, Prepared):
        function.prepare()
    if DEVICE == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - start
    event: Any = torch.cuda.Event  # torch has no types for it
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
