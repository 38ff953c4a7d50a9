"""A hash of all that a compiled library depends on, so that one that was kept is not taken for another."""

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch

_VARIABLES = ("C_INCLUDE_PATH", "CPATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "SDKROOT")
"""Environment variables that compilers read."""

_PROCESSOR = (
    b"vendor_id", b"cpu family", b"model", b"model name", b"stepping", b"cache size", b"flags",
    b"CPU implementer", b"CPU architecture", b"CPU variant", b"CPU part", b"Features",
)  # fmt: skip
"""The fields of /proc/cpuinfo by which compilers choose instructions, on x86 and on ARM."""

_CPUINFO_BYTES = 1 << 14
"""How much of it is read: of hundreds of cores the first few, as reading asks each one for its clock."""


def made_from(sources: Sequence[Path], command: Sequence[str]) -> str | None:
    """Return a hash of sources, command, compiler, processor, libraries and environment; None if one is not known.

    No process is started: a compiler is known by the path, size and time of its file.

    Args:
        sources: the files that are compiled.
        command: the compiler and its arguments.
    """
    processor = _processor()
    if not processor:
        return None
    system = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) else ""
    parts = [
        *map(os.fsencode, command),
        *(repr(file_state(word)).encode(errors="surrogateescape") for word in command),
        *(path.read_bytes() for path in sources),
        *(os.fsencode(f"{name}={os.environ.get(name)}") for name in _VARIABLES),
        f"torch {torch.__version__}, {sys.platform} {platform.machine()} {system}".encode(),
        processor,
    ]
    return sha256(b"".join(b"%d %b" % (len(part), part) for part in parts)).hexdigest()


def file_state(word: str) -> tuple[str, int, int] | None:
    """Return real path, size and time of change of a program or file that `word` names; None if it names none."""
    found = shutil.which(word) or (word if word.startswith(os.sep) else None)
    try:
        path = os.path.realpath(found or "")
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return (path, state.st_size, state.st_mtime_ns) if found else None


def _processor() -> bytes:
    """Return a description of this machine's processor; nothing if too little is known to distinguish it."""
    if sys.platform == "darwin":
        return _sysctl(b"machdep.cpu.brand_string")
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            *lines, _ = file.read(_CPUINFO_BYTES).split(b"\n")
    except (OSError, ValueError):
        return b""
    known = {line for line in lines if line.partition(b":")[0].strip() in _PROCESSOR}
    has_features = any(line.startswith((b"flags", b"Features")) for line in known)
    return b"\n".join(sorted(known)) if has_features else b""


def _sysctl(name: bytes) -> bytes:
    value, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name, value, ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return b""
    return b"" if failed else value.value
