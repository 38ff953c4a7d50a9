"""Files of a run: read without running anything that is in them; checksums; what is removed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optimizer.state import (
    MAX_JSON_BYTES,
    NotAFileError,
    check_is_file,
    decode_json,
    read_limited,
    replacing,
    restore_strides,
    write_new,
)

from ..errors import ConfigError, UnreadableError

_CHUNK = 1 << 20
_NOT_OURS = {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG}
"""Reasons not to read a file that do not pass: it is not one that a run wrote."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written. The message names the file and what is wrong."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new, never half of it."""
    with replacing(path) as aside:
        write_new(aside, text)


@contextmanager
def written_out(out: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes the file `out` that a user asks for once the body is through.

    An existing file is replaced. Raises ConfigError, with `out` as it was, if it is a link or not a file, and where it
    cannot be written.
    """
    if out.is_symlink():
        raise ConfigError(f"--out: {out} is a link, which is not followed. Name the file that it leads to.")
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a directory. Name a file.")
    try:
        if os.path.lexists(out):
            check_is_file(out)
        with replacing(out) as aside:
            yield aside
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DamagedCheckpointError if there is none, UnreadableError."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: holds no JSON object")
    return value


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file. Raises DamagedCheckpointError if there is none, UnreadableError."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise DamagedCheckpointError(f"{path}: holds no JSON list")
    return value


def _read_json(path: Path) -> Any:
    with reading(path):
        text = read_limited(path, MAX_JSON_BYTES)
    try:
        value = decode_json(text.decode())
        json.dumps(value, ensure_ascii=False).encode()  # what is to be shown and compared later
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, in their strides. Raises DamagedCheckpointError,
    UnreadableError."""
    with opened_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        return restore_strides(tensors, file.metadata())


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Yield a safetensors file of which only the header is read until a tensor is asked for.

    Raises DamagedCheckpointError, also for what the body cannot read of it, and UnreadableError.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with reading(path):
        check_is_file(path)
        path.open("rb").close()  # the library gives the system's reason in its text only
    try:
        with reading(path):
            yield
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, DamagedCheckpointError | UnreadableError):
            raise
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    except MemoryError as error:  # a file of terabytes, or a machine that is full
        raise UnreadableError(f"{path}: cannot be read: {error}. Nothing was changed; try again.") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let the body read `path`.

    Raises DamagedCheckpointError if it is not there or is no file, UnreadableError where the system refuses to read
    what may well be whole: no permission, a failing disk, a network disk that is away.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except OSError as error:
        if isinstance(error, NotAFileError) or error.errno in _NOT_OURS:
            raise DamagedCheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """Return the error that `path` cannot be read, with the system's reason."""
    return UnreadableError(f"{path}: cannot be read: {error.strerror or error}. Nothing was changed; try again.")


def stat_of(path: Path, absent: type[OSError] = FileNotFoundError) -> os.stat_result | None:
    """Return what is at `path`, links followed; None if it is not there.

    absent: another error that means so. Raises UnreadableError where it cannot be told.
    """
    try:
        return path.stat()
    except (FileNotFoundError, absent, ValueError):  # ValueError: a NUL in the name
        return None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise unreadable(path, error) from error


def checksum(path: Path) -> str:
    """Return the XXH3 checksum of a file, 128 bits in hexadecimal. It tells damage, and not ill will."""
    digest = xxhash.xxh3_128()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()


def checksum_of(values: Mapping[str, Any]) -> str:
    """Return the XXH3 checksum of plain values."""
    return xxhash.xxh3_128(json.dumps(values, sort_keys=True).encode()).hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link (and not what it leads to) or a folder with all that is in it. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_all(paths: list[Path]) -> None:
    """Remove each of `paths`, as `remove` does. Raises the first OSError after all were tried."""
    failures: list[OSError] = []
    for path in paths:
        try:
            with suppress(FileNotFoundError):
                remove(path)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]
