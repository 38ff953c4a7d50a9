"""The cost of imports: `innerstep --help` as a whole, and the first optimizer beyond `import torch`. Medians.

`import optimizer` alone imports nothing: the public names are imported on first use. What is measured is therefore a
process that builds an optimizer. The bytecode is compiled beforehand, as that of an installed package is.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROUNDS = 1 if os.environ.get("INNERSTEP_BENCHMARKS") == "short" else 7
TORCH, BUILT = "import torch", "import torch, and build adamw"
BEYOND = f"{BUILT}, beyond torch"
_BUILD = """
import torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-3).build([torch.nn.Parameter(torch.zeros(3))])
"""


def seconds(command: Sequence[str], bytecode: str) -> float:
    """Return the wall time of one run of `command` with its bytecode kept in the folder `bytecode`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**environment, "PYTHONPYCACHEPREFIX": bytecode})
    return time.perf_counter() - start


def rounds_of(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each command in each of `rounds`, in which they take turns."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as bytecode:
        for command in commands.values():
            seconds(command, bytecode)
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command, bytecode))
    return times


def times() -> dict[str, float]:
    """Return medians of interleaved rounds, in seconds."""
    commands = {
        "innerstep --help": [str(Path(sys.executable).with_name("innerstep")), "--help"],
        TORCH: [sys.executable, "-c", "import torch"],
        BUILT: [sys.executable, "-c", _BUILD],
    }
    measured = rounds_of(commands, ROUNDS)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    medians[BEYOND] = statistics.median(
        built - torch for built, torch in zip(measured[BUILT], measured[TORCH], strict=True)
    )
    return medians


def table(medians: Mapping[str, float]) -> str:
    """Return a table of seconds."""
    return "\n".join(["| | s |", "|---|---|", *(f"| `{name}` | {median:.2f} |" for name, median in medians.items())])


def measured() -> str:
    """Return a table of medians of interleaved rounds."""
    return table(times())


if __name__ == "__main__":
    print(measured())
