"""The share of the time that two processes of a run spend on their decisions, on the digits.

Run it by `python benchmarks/control.py [UPDATES]`; it starts itself under torchrun.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import load_config
from trainer.distributed.launch import joined
from trainer.distributed.world import World
from trainer.offline_trainer import OfflineTrainer

PROCESSES, UPDATES = 2, 600
DIGITS = Path(__file__).parent.parent / "configs" / "digits.yaml"
METHODS = ("largest", "total", "from_main", "gather")
"""The methods of World that exchange plain values; the others call these."""


@contextlib.contextmanager
def timed(seconds: dict[str, float], calls: Counter[str]) -> Iterator[None]:
    """Run the body, and count the calls of METHODS and their seconds, the wait for the other process included."""

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*given)
            finally:
                seconds[name] += time.perf_counter() - start
                calls[name] += 1

        return call

    before = {name: getattr(World, name) for name in METHODS}
    for name, method in before.items():
        setattr(World, name, counting(name, method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(World, name, method)


def measure(updates: int, run_dir: str) -> None:
    """Train, and print the share of the time in the main process."""
    changes = {"train.run_dir": run_dir, "train.total_steps": updates, "train.pictures": False, "train.device": "cpu"}
    config = load_config(DIGITS, changes)
    seconds, calls = dict.fromkeys(METHODS, 0.0), Counter[str]()
    with joined(World.from_environment(), 60.0) as world:
        trainer = OfflineTrainer(config, Console(quiet=True), world=world)
        if world.is_main:
            Path(run_dir).mkdir(exist_ok=True)
        world.barrier()
        start = time.perf_counter()
        with timed(seconds, calls):
            trainer.run()
        whole = time.perf_counter() - start
    if world.is_main:
        total = sum(seconds.values())
        print(f"{updates} updates in {whole:.1f} s; control {total:.3f} s, {100 * total / whole:.2f} %")
        for name in METHODS:
            print(f"  {name}: {calls[name]} calls, {seconds[name]:.3f} s")


def launch(updates: int) -> int:
    """Start the processes; return their exit code."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
        command = [sys.executable, *torchrun, __file__, str(updates), str(Path(folder) / "run")]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    if "RANK" in os.environ:
        measure(number, sys.argv[2])
    else:
        sys.exit(launch(number))
