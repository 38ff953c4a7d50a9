"""Measures all that docs/benchmarks.md shows, and keeps the results of each of three runs as a file: 1.json to 3.json.

`python benchmarks/sections.py FOLDER` measures what a file of the folder lacks; `… FOLDER RUN SECTION` measures one
section of one run. Each section has a new process. Memory, growth and the tools are measured in the first run only.
"""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

RUNS = 3
REPEATED: Mapping[str, str] = {
    "AdamW": "optimizers.measured",
    "Clipped AdamW": "optimizers.measured",
    "Cautious AdamW": "optimizers.measured",
    "Schedule-free RAdam": "optimizers.measured",
    "AdamW, parameters in bfloat16": "optimizers.measured",
    "overhead": "step_overhead.times",
    "hundred": "scaling.hundred_components",
    "loops": "loop.times",
    "checkpoints": "checkpoints.times",
    "imports": "import_time.times",
    "starts": "first_update.times",
    "first use": "first_use.times",
}
"""Functions that are measured in each run. Those of `optimizers` take the name of the section."""
ONCE: Mapping[str, str] = {
    "about": "optimizers.about",
    "memory": "optimizers.memory",
    "growth": "scaling.all_growth",
    "tools": "tools_at_scale.measured",
}


def results_of(section: str) -> Any:
    """Measure a section in this process, and return plain values."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, name = {**REPEATED, **ONCE}[section].split(".")
    function: Callable[..., Any] = getattr(import_module(module), name)
    if name == "measured" and module == "optimizers":
        return asdict(partial(function, section)())
    return function()


def measure(path: Path, section: str) -> None:
    """Measure a section and add its results to a file."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    start = perf_counter()
    found[section] = results_of(section)
    found.setdefault("seconds", {})[section] = perf_counter() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def missing(folder: Path) -> list[tuple[Path, str]]:
    """Return the sections without results, each with its file."""
    wanted: list[tuple[Path, str]] = []
    for run in range(1, RUNS + 1):
        path = folder / f"{run}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        wanted += [(path, name) for name in (*REPEATED, *(ONCE if run == 1 else ())) if name not in found]
    return wanted


def main() -> int:
    """Measure. Returns how many sections failed."""
    folder, *one = sys.argv[1:]
    if one:
        run, section = one
        measure(Path(folder) / f"{run}.json", section)
        return 0
    failed = 0
    for path, section in missing(Path(folder)):
        print(f"{path.stem}: {section}", flush=True)
        failed += bool(subprocess.run([sys.executable, __file__, folder, path.stem, section]).returncode)
    return failed


if __name__ == "__main__":
    sys.exit(main())
