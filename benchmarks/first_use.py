"""The cost of the first use of compiled steps in a process, where no library is kept yet and where one is."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

COLD, WARM = "first use of `auto`, once a machine", "first use of `auto`, after that"
ROUNDS = 1 if os.environ.get("INNERSTEP_BENCHMARKS") == "short" else 5
FOLDER = "INNERSTEP_CACHE"
"""Environment variable for the folder where compiled libraries are kept."""


def seconds() -> float:
    """Return how much longer the first optimizer of this process takes to build than the second one does."""
    from torch import nn

    from optimizer import OPTIMIZER_BUILDER_REGISTRY

    def build(**params: object) -> Callable[[], object]:
        factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](use_cautious_optimizer=True, **params)
        return lambda: factory.build(nn.Linear(1024, 1024))

    def timed(function: Callable[[], object]) -> float:
        start = perf_counter()
        function()
        return perf_counter() - start

    build(implementation="single")()  # imports what any build needs
    first = build()
    return timed(first) - timed(first)


def times() -> dict[str, float]:
    """Return the median seconds without and with a kept library, each in new processes."""
    found: dict[str, list[float]] = {COLD: [], WARM: []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for name in found:
                command = [sys.executable, __file__, "here"]
                environment = {**os.environ, FOLDER: folder}
                ended = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found[name].append(float(ended.stdout))
    return {name: statistics.median(measured) for name, measured in found.items()}


if __name__ == "__main__":
    print(seconds() if sys.argv[1:] == ["here"] else times())
