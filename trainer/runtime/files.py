"""Files of a run: read without running code that is in them; checksums; removal."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optimizer.state import (
    MAX_JSON_BYTES,
    NotAFileError,
    as_bytes,
    check_is_file,
    decode_json,
    is_sharded,
    read_limited,
    replacing,
    restore_strides,
    shard_like,
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
def replacing_output(out: Path) -> Iterator[Path]:
    """Yield the path of a file to write. It becomes the file `out`, which a user asked for, when the body is done.

    An existing file is replaced.

    Raises:
        ConfigError: `out` is a link or not a file, or cannot be written. It is unchanged then.
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
    """Return the object in a JSON file.

    Raises:
        DamagedCheckpointError: The file holds no JSON object.
        UnreadableError: The system refuses to read it now.
    """
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: holds no JSON object")
    return value


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file.

    Raises:
        DamagedCheckpointError: The file holds no JSON list.
        UnreadableError: The system refuses to read it now.
    """
    value = _read_json(path)
    if not isinstance(value, list):
        raise DamagedCheckpointError(f"{path}: holds no JSON list")
    return value


def _read_json(path: Path) -> Any:
    with reading(path):
        text = read_limited(path, MAX_JSON_BYTES)
    try:
        value = decode_json(text.decode())
        json.dumps(value, ensure_ascii=False).encode()  # it can be shown and compared later
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    return value


def read_tensors(path: Path, like: Mapping[str, Tensor] = MappingProxyType({})) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, with the strides that they were saved with.

    Args:
        path: The file.
        like: Tensors of the same names. Where one is sharded, only the part of this process is kept, unless the shapes
            differ; it has the strides of that one.

    Raises:
        DamagedCheckpointError: The file is missing or damaged.
        UnreadableError: The system refuses to read it now.
    """
    with opened_tensors(path) as file:
        names = file.keys()
        tensors = {name: _own_part(file.get_tensor(name), like.get(name)) for name in names}
        return restore_strides(tensors, file.metadata())


def _own_part(tensor: Tensor, like: Tensor | None) -> Tensor:
    if like is None or not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    return shard_like(tensor, like)


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Yield a safetensors file of which only the header is read until a tensor is asked for.

    Raises:
        DamagedCheckpointError: The file is missing or damaged, or the body cannot read a tensor.
        UnreadableError: The system refuses to read it now.
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

    Raises:
        DamagedCheckpointError: It is missing, or not a file.
        UnreadableError: The system refuses to read it now, and it may be whole: no permission, a failing disk, a
            network disk that is away.
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
    """Return the status of `path`, links followed; None if there is nothing.

    Args:
        path: Any path.
        absent: Another error that means that there is nothing.

    Raises:
        UnreadableError: The system does not answer.
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
    """Return the XXH3 checksum of a file, 128 bits in hexadecimal. It detects damage, not forgery."""
    digest = xxhash.xxh3_128()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()


def checksum_of(values: Mapping[str, Any]) -> str:
    """Return the XXH3 checksum of plain values."""
    return xxhash.xxh3_128(json.dumps(values, sort_keys=True).encode()).hexdigest()


def checksum_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the XXH3 checksum of tensors by name, in the order of the names."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(as_bytes(tensor.detach().cpu()).numpy().data)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a folder with its content.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_all(paths: list[Path]) -> None:
    """Remove each of `paths`, as `remove` does. One that is missing is skipped.

    Raises:
        OSError: The first failure, after all were tried.
    """
    failures: list[OSError] = []
    for path in paths:
        try:
            with suppress(FileNotFoundError):
                remove(path)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def remove_whole(paths: list[Path], prefix: str) -> None:
    """Remove files and folders of one folder; whenever the process ends, none is there in part.

    They are moved into a new folder beside them in the given order, and that folder is removed.

    Args:
        paths: The files and folders. One at least.
        prefix: How the name of the new folder begins.

    Raises:
        OSError: One cannot be moved or removed.
    """
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=paths[0].parent))
    try:
        for path in paths:
            path.rename(aside / path.name)
    finally:
        remove(aside)
