"""Steps in C for the CPU, compiled for this machine in a fraction of a second when the first one is needed."""

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import IO

import torch
from torch import Tensor

FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""No -ffast-math: NaN must stay NaN, and other code in the process keeps its denormals."""

REALS = {torch.float32: "float", torch.float64: "double"}

SECONDS_TO_COMPILE = 12
"""The time limit of the compiler, which usually takes half a second."""

SECONDS_TO_READ = 1
"""The wait for the end of its messages after its exit."""

MESSAGE_BYTES = 10_000
"""The length at which its messages are cut off."""

_WHOLE, _COUNT, _MOVE = range(3)
"""The parts of a step that counts signs, by the numbers of native.c."""

ELEMENTS_A_THREAD = 32_768
"""The number of elements for which one more thread is used."""


class _Work(ctypes.Structure):
    """The arguments of a step; the same struct as in native.c."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("choice", ctypes.c_int64),
        ("phase", ctypes.c_int64),
        ("tensors", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("numbers", ctypes.POINTER(ctypes.c_double)),
        ("wholes", ctypes.POINTER(ctypes.c_int64)),
        ("agreeing", ctypes.c_void_p),
    )


def _check_row(row: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> None:
    """Raise TypeError for tensors that differ in type, size or device: C would read and write beyond them."""
    count = row[0].numel()
    if any(x.dtype is not dtype or x.numel() != count or not x.is_cpu for x, dtype in zip(row, dtypes, strict=True)):
        found = ", ".join(f"{x.dtype} {list(x.shape)} on {x.device}" for x in row)
        raise TypeError(f"a parameter's tensors differ: {found}")


def run(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool = False,
    moments_at: int | None = None,
) -> None:
    """Take a step of native.c, in place.

    Args:
        name: the step's function.
        rows: the tensors of each parameter, of one size and without gaps; all of one type, except moments in bfloat16.
        numbers: for each row, as the step's struct has them.
        choice: whether SGD is Nesterov's; whether schedule-free RAdam divides by the square's root.
        moments_at: the index in a row from which tensors may be bfloat16 with float32 parameters; None: none may.

    Raises:
        OSError: as `library` does.
        TypeError: for tensors of a row that differ in type, size or device.
    """
    if rows:
        _Step(name, rows, numbers, choice, moments_at).take(_WHOLE)


def count(
    name: str,
    rows: Sequence[Sequence[Tensor]],
    numbers: Sequence[Sequence[float]],
    choice: bool,
    moments_at: int | None,
    wholes: Sequence[int],
) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Take the first half of a cautious step of shards, as `run` takes it as a whole.

    Args:
        name: like the next four as for `run`.
        rows: of shards, at least one.
        numbers: of each row.
        choice: of the step.
        moments_at: in a row.
        wholes: for each row the elements of the whole parameter.

    Returns:
        In how many elements of each row step and gradient agree; and a function that takes the other half, given these
        of the whole parameters.
    """
    step = _Step(name, rows, numbers, choice, moments_at, wholes)
    step.take(_COUNT)

    def move(agreeing: Tensor) -> None:
        step.agreeing.copy_(agreeing)
        step.take(_MOVE)

    return step.agreeing, move


class _Step:
    """A step with its arguments as C takes them."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Sequence[Tensor]],
        numbers: Sequence[Sequence[float]],
        choice: bool,
        moments_at: int | None,
        wholes: Sequence[int] = (),
    ) -> None:
        dtypes = _checked_dtypes(rows, moments_at)
        self._rows = rows  # keeps the tensors alive
        self._function = getattr(library(dtypes[0], dtypes[-1]), name)
        tensors, flat = list(chain.from_iterable(rows)), list(chain.from_iterable(numbers))
        sizes, integers = [row[0].numel() for row in rows], ctypes.c_int64 * len(rows)
        self.agreeing = torch.zeros(len(rows), dtype=torch.int64)
        self._threads = min(torch.get_num_threads(), 1 + sum(sizes) // ELEMENTS_A_THREAD)
        self._work = _Work(
            len(rows),
            choice,
            _WHOLE,
            (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors]),
            integers(*sizes),
            (ctypes.c_double * len(flat))(*flat),
            integers(*(wholes or sizes)),
            self.agreeing.data_ptr(),
        )

    def take(self, phase: int) -> None:
        self._work.phase = phase
        self._function(ctypes.byref(self._work), self._threads)


def _checked_dtypes(rows: Sequence[Sequence[Tensor]], moments_at: int | None) -> list[torch.dtype]:
    """Return the types of the first row, which all rows must have. Raises TypeError as `run` does."""
    first, whole = rows[0], rows[0][0].dtype
    dtypes = [whole] * len(first)
    if whole == torch.float32 and moments_at is not None and first[-1].dtype == torch.bfloat16:
        dtypes[moments_at:] = [torch.bfloat16] * (len(first) - moments_at)
    for row in rows:
        _check_row(row, dtypes)
    return dtypes


def check_step(name: str, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """Compile the step `name` if it is not compiled yet.

    Raises:
        OSError: as `library` does; if the compiled library lacks the step.
    """
    if not hasattr(library(dtype, state_dtype), name):
        library.cache_clear()  # another compiler may make it
        raise OSError(f"{_compiler()[0]} made a library of native.c without the step {name}")


@cache
def library(dtype: torch.dtype, state_dtype: torch.dtype) -> ctypes.CDLL:
    """Return native.c compiled for parameters of `dtype`.

    Args:
        dtype: a key of `REALS`.
        state_dtype: the type of Adam's moments, `dtype` or, with float32, bfloat16: then only Adam's steps exist.

    Raises:
        OSError: without a C compiler that, except on macOS, supports OpenMP as torch does; if it does not end in time.
    """
    defines = [f"-DREAL={REALS[dtype]}", *(["-DHALF"] if state_dtype != dtype else [])]
    source = Path(__file__).with_suffix(".c")
    # Two OpenMP libraries in a process would have two sets of threads, each spinning while the other works.
    openmp = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made, compiler = f"{folder}/native.so", _compiler()
        defines += ["-DLIBGOMP"] if openmp else []
        command = [*compiler, *FLAGS, *_flags_of_system(), *defines, str(source), "-o", made, *openmp, "-lm"]
        code, messages = _run_compiler(command, source.name)
        if code:
            raise OSError(f"{compiler[0]} could not compile {source.name}: {messages}")
        return ctypes.CDLL(made)


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
