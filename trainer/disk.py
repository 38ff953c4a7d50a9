"""Files: written whole or not at all, read without running anything that is in them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optimizer.strides import packed, unpacked

_CHUNK = 1 << 20


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written. The message names the file and what is wrong."""


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader finds the old content or the new, never half of it."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` once the body is through, and else is not there."""
    aside = aside_of(path)
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    flush(path.parent)


def aside_of(path: Path) -> Path:
    """Return where what is to be `path` is written first."""
    return path.with_name(f".{path.name}.new")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` to the file `path`, which nobody reads yet."""
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` and their strides to the safetensors file `path`, which nobody reads yet.

    They must not share memory. Raises OSError, as `write_json`.
    """
    contiguous, metadata = packed(tensors, metadata)
    try:
        save_file(contiguous, path, metadata)
    except SafetensorError as error:  # the library's word for an OSError, whose number it tells in its text only
        raise OSError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DamagedCheckpointError if there is none."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"{path}: holds no JSON object")
    return value


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file. Raises DamagedCheckpointError if there is none."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise DamagedCheckpointError(f"{path}: holds no JSON list")
    return value


def _read_json(path: Path) -> Any:
    if not path.is_file():  # nor a pipe, which would have to be waited for
        raise DamagedCheckpointError(f"{path}: is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # what is to be shown and compared later
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, in their strides. Raises DamagedCheckpointError."""
    with opened_tensors(path) as file:
        return unpacked({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118 not a dict


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Yield a safetensors file of which only the header is read until a tensor is asked for.

    Raises DamagedCheckpointError, also for what the body cannot read of it.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error


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


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
