"""Builds the compiled steps with the address, undefined behaviour and thread sanitizers, and takes thousands of random
steps on one to five threads. Builds with a deliberate fault come first: each must be found."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from optimizer.kernels import native_library

DRIVER = Path(__file__).with_suffix(".c")

MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-fsanitize=thread",)

STEPS = {MEMORY: 1000, THREADS: 200}
"""Random steps for each build, by sanitizer."""

FAULTS = (
    (MEMORY, "-DSHORT", "heap-buffer-overflow"),
    (MEMORY, "-DSHIFTED", "shift exponent 40 is too large"),
    (THREADS, "-DNO_BARRIER", "data race"),
)
"""Deliberate faults, and the words by which a sanitizer reports them."""

SECONDS = 170
"""The time limit of all."""


class Build(NamedTuple):
    """A driver to build and run.

    Attributes:
        sanitizer: the compiler's flags.
        types: of parameters and state, as flags.
        fault: the flag of a deliberate fault, or nothing.
        message: the words by which it must be reported.
    """

    sanitizer: tuple[str, ...]
    types: tuple[str, ...]
    fault: str = ""
    message: str = ""


def main() -> None:
    """Build and run all; exit with 1 if a sanitizer reports anything, or misses a fault."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = []
        for line in pool.map(lambda numbered: _report(Path(folder), *numbered), enumerate(_builds())):
            print(line, flush=True)
            lines.append(line)
    bad = sum("FAILED" in line for line in lines)
    print(f"{len(lines) - bad} of {len(lines)} builds as they should be, in {time.monotonic() - begun:.0f} s")
    sys.exit(bad != 0)


def _builds() -> Iterator[Build]:
    types = [tuple(native_library.type_flags(*pair)) for pair in native_library.PAIRS]
    for sanitizer, fault, message in FAULTS:
        yield Build(sanitizer, types[0], fault, message)
    for sanitizer in (THREADS, MEMORY):
        yield from (Build(sanitizer, flags) for flags in types)


def _report(folder: Path, number: int, build: Build) -> str:
    """Return a line about a build: its result, or how it failed."""
    program = folder / str(number)
    flags = [flag for flag in native_library.FLAGS if flag not in ("-shared", "-fPIC")]
    flags += ["-g1", "-march=native", *build.sanitizer, *build.types, *filter(None, [build.fault])]
    compiler, kernels = os.environ.get("CC") or "cc", Path(native_library.__file__).parent
    commands = (
        [compiler, *flags, "-fopenmp", "-c", f"-I{kernels}", str(DRIVER), "-o", f"{program}.o"],
        [compiler, *build.sanitizer, f"{program}.o", "-o", str(program), "-lm", "-lpthread"],  # without libgomp
        [str(program), str(STEPS[build.sanitizer]), str(number)],
    )
    name = " ".join([*build.sanitizer[:1], *build.types, *filter(None, [build.fault])])
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    for command in commands:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
        if done.returncode:
            break
    printed = done.stdout + done.stderr
    if build.message:
        is_found = done.returncode and build.message in printed
        return f"{name}: {'found' if is_found else 'FAILED: not found'}"
    return f"{name}: FAILED\n{printed[:5000]}" if done.returncode else f"{name}: {printed.strip()}"


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {os.cpu_count()} cores")
    main()
