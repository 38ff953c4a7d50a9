"""What imports cost: `innerstep --help` as a whole, and `import optimizer` beyond `import torch`. Medians.

The bytecode is compiled beforehand, as that of an installed package is.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 11


def seconds(command: list[str], bytecode: str) -> float:
    """Return the wall time of one run of `command` with its bytecode kept in the folder `bytecode`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**environment, "PYTHONPYCACHEPREFIX": bytecode})
    return time.perf_counter() - start


def measured() -> str:
    """Return a table of medians of interleaved rounds."""
    commands = {
        "innerstep --help": [str(Path(sys.executable).with_name("innerstep")), "--help"],
        "import torch": [sys.executable, "-c", "import torch"],
        "import optimizer": [sys.executable, "-c", "import optimizer"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as bytecode:
        for command in commands.values():
            seconds(command, bytecode)
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command, bytecode))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    medians["import optimizer, beyond torch"] = medians["import optimizer"] - medians["import torch"]
    return "\n".join(["| | s |", "|---|---|", *(f"| `{name}` | {median:.2f} |" for name, median in medians.items())])


if __name__ == "__main__":
    print(measured())
