"""native.c as a library: compiled for this machine in a fraction of a second when its first step is needed."""

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

import torch

FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
"""No -ffast-math: NaN must stay NaN, and other code in the process keeps its denormals. No product is fused with a
sum: gradients that a step scales equal those that were scaled before it."""

REALS = {torch.float32: "float", torch.float64: "double"}

SECONDS_TO_COMPILE = 12
"""The time limit of the compiler, which usually takes half a second."""

SECONDS_TO_READ = 1
"""The wait for the end of its messages after its exit."""

MESSAGE_BYTES = 10_000
"""The length at which its messages are cut off."""


def check_step(step: str, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """Compile a step if it is not compiled yet.

    Raises:
        OSError: as `library` does.
    """
    library(step, dtype, state_dtype)


@cache
def library(step: str, dtype: torch.dtype, state_dtype: torch.dtype) -> ctypes.CDLL:
    """Return native.c compiled for one step: a library with the function `step`.

    Args:
        step: the name of a step in native.c.
        dtype: of the parameters, a key of `REALS`.
        state_dtype: the type of Adam's moments, `dtype` or, with float32, bfloat16.

    Raises:
        OSError: without a C compiler that, except on macOS, supports OpenMP as torch does; if it does not end in time;
            if the compiled library lacks the step.
    """
    source = Path(__file__).with_name("native.c")
    # Two OpenMP libraries in a process would have two sets of threads, each spinning while the other works.
    openmp = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made, compiler = f"{folder}/native.so", _compiler()
        defines = [*_defines(step, dtype, state_dtype), *(["-DLIBGOMP"] if openmp else [])]
        command = [*compiler, *FLAGS, *_flags_of_system(), *defines, str(source), "-o", made, *openmp, "-lm"]
        code, messages = _run_compiler(command, source.name)
        if code:
            raise OSError(f"{compiler[0]} could not compile {source.name}: {messages}")
        loaded = ctypes.CDLL(made)
        if not hasattr(loaded, "step"):
            raise OSError(f"{compiler[0]} made a library of native.c without the step {step}")
        return loaded


def _defines(step: str, dtype: torch.dtype, state_dtype: torch.dtype) -> list[str]:
    """Return the compiler's flags for a step and its types."""
    return [f"-DSTEP={step}", f"-DREAL={REALS[dtype]}", *(["-DHALF"] if state_dtype != dtype else [])]


def _flags_of_system() -> tuple[str, str]:
    """Return the flags for this processor and for threads, which Apple's compiler lacks: a step takes one there."""
    if sys.platform != "darwin":
        return "-march=native", "-fopenmp"
    return "-mcpu=native" if platform.machine() == "arm64" else "-march=native", "-fopenmp-simd"


def _compiler() -> list[str]:
    """Return the command that `CC` names, or the usual one. Raises OSError if it cannot be read."""
    try:
        return shlex.split(os.environ.get("CC") or "cc") or ["cc"]
    except ValueError as error:
        raise OSError(f"CC: {error}: {os.environ['CC']}") from None


def _run_compiler(command: Sequence[str], source: str) -> tuple[int, str]:
    """Return the exit code of `command` and the beginning of its messages, in limited time and memory.

    Raises OSError if it cannot be started, or does not end: then all processes that it started are killed.
    """
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that its own processes can be killed with it
    )
    messages = bytearray()
    reader = Thread(target=_read_beginning, args=(process.stderr, messages), daemon=True)
    reader.start()
    try:
        code = process.wait(SECONDS_TO_COMPILE)
    except BaseException as error:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        rule = f"{command[0]} did not compile {source} in {SECONDS_TO_COMPILE} seconds, and was stopped"
        raise OSError(f"{rule}. It usually takes one: set CC to another C compiler, or try again") from None
    reader.join(SECONDS_TO_READ)  # a process that it left behind may hold the pipe open
    return code, messages.decode(errors="replace").strip()


def _read_beginning(stream: IO[bytes], beginning: bytearray) -> None:
    """Read all of `stream`, and keep its beginning."""
    with stream:
        while chunk := stream.read(MESSAGE_BYTES):
            beginning += chunk[: MESSAGE_BYTES - len(beginning)]
