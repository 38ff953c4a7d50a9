"""native.c as a library: compiled for this machine in a fraction of a second when its first step is needed."""

import ctypes
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import IO

import torch

from . import kept_libraries, self_test
from .made_from import file_state, made_from

FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
"""No -ffast-math: NaN must stay NaN, and other code in the process keeps its denormals. No product is fused with a
sum: gradients that a step scales equal those that were scaled before it."""

PAIRS = (
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
)
"""The types of parameters and their state that there are steps for."""

SOURCE = Path(__file__).with_name("native.c")
HEADER = SOURCE.with_name("native_types.h")

SECONDS_TO_COMPILE = 12
"""The time limit of the compiler, which usually takes less than one."""

SECONDS_TO_RETRY = 60
"""The time for which a compiler that did not end is not started again: each optimizer would wait for it."""

SECONDS_TO_READ = 1
"""The wait for the end of its messages after its exit."""

MESSAGE_BYTES = 10_000
"""The length at which its messages are cut off."""

_HANGING: dict[tuple[object, ...], float] = {}
"""The times until which compilers are not started again."""


class LoadError(OSError):
    """The system does not load a library."""


def check_step(step: str, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """Compile a step if it is not compiled yet.

    Raises:
        OSError: as `library` does.
    """
    library(step, dtype, state_dtype)


@cache
def library(step: str, dtype: torch.dtype, state_dtype: torch.dtype) -> ctypes.CDLL:
    """Return native.c compiled for one step: a library with the function `step`, which has passed its test.

    It is one that was kept (`kept_libraries`), or is compiled.

    Args:
        step: the name of a step in native.c.
        dtype: of the parameters.
        state_dtype: of their state; both are a pair of `PAIRS`.

    Raises:
        OSError: without a C compiler that, except on macOS, supports OpenMP as torch does; if it does not end in time;
            if what it makes cannot be loaded, or fails its test. The same compiler is not tried again for a while.
    """
    # Two OpenMP libraries in a process would have two sets of threads, each spinning while the other works.
    openmp = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    compiler, flags = _compiler(), [*FLAGS, *_flags_of_system(), f"-DSTEP={step}", *type_flags(dtype, state_dtype)]
    source = made_from([SOURCE, HEADER], [*compiler, *flags, *openmp])
    test = partial(_tested, step=step, dtype=dtype, state_dtype=state_dtype, compiler=compiler[0])
    for path in kept_libraries.kept(step, source) if source else ():
        with suppress(OSError):
            return _tested_or_discarded(path, test)
    with tempfile.TemporaryDirectory(prefix="innerstep-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "native.so"
        _compile(compiler, [*flags, str(SOURCE), "-o", str(made), *openmp, "-lm"])
        try:
            loaded = test(made)
        except LoadError:  # temporary folders may be mounted so that no program runs there
            kept = kept_libraries.keep(step, source, made.read_bytes()) if source and made.is_file() else None
            if kept is None:
                raise
            return _tested_or_discarded(kept, test)
        if source:
            kept_libraries.keep(step, source, made.read_bytes())
        return loaded


def _tested(path: Path, step: str, dtype: torch.dtype, state_dtype: torch.dtype, compiler: str) -> ctypes.CDLL:
    """Load and try a library. Raises OSError if it must not be used, LoadError if it cannot be loaded."""
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise LoadError(str(error)) from None
    if not hasattr(loaded, "step"):
        raise OSError(f"{compiler} made a library of {SOURCE.name} without the step {step}")
    try:
        self_test.check(loaded, step, dtype, state_dtype, torch.get_num_threads())
    except OSError as error:
        raise OSError(f"{compiler} made a library of {SOURCE.name} that is wrong: {error}") from None
    return loaded


def _tested_or_discarded(path: Path, test: Callable[[Path], ctypes.CDLL]) -> ctypes.CDLL:
    """Test a library that is kept. Raises OSError if it must not be used: then it is kept no longer."""
    try:
        return test(path)
    except OSError:
        kept_libraries.discard(path)
        raise


def type_flags(dtype: torch.dtype, state_dtype: torch.dtype) -> list[str]:
    """Return the compiler's flags for the types of parameters and their state."""
    parameter, state = (str(kind).removeprefix("torch.") for kind in (dtype, state_dtype))
    real = "float64" if dtype is torch.float64 else "float32"
    return [f"-DPARAMETER={parameter}", f"-DSTATE={state}", f"-DREAL={real}"]


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


def _compile(compiler: Sequence[str], arguments: Sequence[str]) -> None:
    """Run the compiler. Raises OSError if it fails, and at once if it did not end shortly before."""
    key = (*compiler, file_state(compiler[0]))
    if time.monotonic() < _HANGING.get(key, -math.inf):
        raise OSError(_hanging(compiler[0]))
    try:
        code, messages = _run_compiler([*compiler, *arguments])
    except TimeoutError:
        _HANGING[key] = time.monotonic() + SECONDS_TO_RETRY
        raise
    except (FileNotFoundError, PermissionError) as error:
        rule = f"the C compiler {compiler[0]!r} cannot be started: {error.strerror}"
        raise OSError(f"{rule}. Install one, or set CC to its command") from None
    if code:
        raise OSError(f"{compiler[0]} could not compile {SOURCE.name}: {messages or f'it ended with {code}'}")


def _hanging(compiler: str) -> str:
    rule = f"{compiler} did not compile {SOURCE.name} in {SECONDS_TO_COMPILE} seconds, and was stopped"
    return f"{rule}. It usually takes one: set CC to another C compiler, or try again in a minute"


def _run_compiler(command: Sequence[str]) -> tuple[int, str]:
    """Return the exit code of `command` and the beginning of its messages, in limited time and memory.

    Raises OSError if it cannot be started, TimeoutError if it does not end: then all that it started is killed.
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
    try:
        reader.start()
        code = process.wait(SECONDS_TO_COMPILE)
    except BaseException as error:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(_hanging(command[0])) from None
        if isinstance(error, RuntimeError):
            raise OSError(f"{command[0]}: {error}") from None  # no thread can be started
        raise
    reader.join(SECONDS_TO_READ)  # a process that it left behind may hold the pipe open
    return code, messages.decode(errors="replace").strip()


def _read_beginning(stream: IO[bytes], beginning: bytearray) -> None:
    """Read all of `stream`, and keep its beginning."""
    with stream:
        while chunk := stream.read(MESSAGE_BYTES):
            beginning += chunk[: MESSAGE_BYTES - len(beginning)]
