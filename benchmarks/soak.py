"""Kills a small run that saves all the time, 200 times at random moments, and compares each end with that of an
uninterrupted run; with and without saving beside training, in single and in half precision."""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import faults  # type: ignore[import-not-found]  # the tests' own, beside which its parts are found

SEEDS = 5
KILLS = 10
"""For each variant and seed."""


def main() -> None:
    """Kill and compare; exit with 1 if any run ended otherwise."""
    lives, folder = faults.Lives(), Path(tempfile.mkdtemp())
    begun, kills, early, runs, different = time.monotonic(), 0, 0, 0, 0
    for seed in range(SEEDS):
        for name, chain, differences in faults.chains(lives, folder, KILLS, seed):
            runs, kills = runs + 1, kills + len(chain.there)
            early += chain.there.count(0)
            different += bool(differences)
            if differences:
                print(f"seed {seed}, {name}: DIFFERENT in {', '.join(differences)}", flush=True)
        print(f"seed {seed}: {kills} kills so far", flush=True)
    seconds = time.monotonic() - begun
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {seconds:.0f} s")
    print(f"{kills} kills, {early} of them before the first checkpoint; every checkpoint that they left was whole")
    print(f"{runs - different} of {runs} runs ended identical")
    sys.exit(different != 0)


if __name__ == "__main__":
    main()
