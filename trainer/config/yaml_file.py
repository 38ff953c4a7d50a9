"""Reads a config's file, YAML or JSON, into plain values."""

import os
import re
import stat
from pathlib import Path
from typing import Any

from optimizer.config import nearest, shown, shown_value

from ..errors import ConfigError
from ..run_layout import CONFIG
from .json_places import read_placed_json
from .places import Places
from .plain_values import Plain
from .syntax import MalformedError
from .yaml_values import read_placed_yaml

_BYTES = 1_000_000
"""Size of a config's file at most."""
_DESCRIPTOR = re.compile(r"/dev/(stdin)|(?:/dev|/proc/self)/fd/([0-9]{1,6})")
"""A file that the shell has opened: `innerstep plan <(sed s/a/b/ c.yaml)` gives /dev/fd/63."""
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "a gzip file", b"PK": "a zip file"}


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML (or `.json`) file at `path`, which holds plain values only.

    A pipe that is open already (/dev/stdin, /dev/fd/N) is read to its end. A named pipe is refused, as it may have no
    writer.

    Raises:
        ConfigError: The file cannot be read, or is not well-formed. The message has line and column.
    """
    return read_placed_file(path)[0]


def read_placed_file(path: Path) -> tuple[dict[str, Any], Places]:
    """Return the mapping in a config's file as `read_config_file` does, and the places of its values.

    Raises:
        ConfigError: The file cannot be read, or is not well-formed. The message has line and column.
    """
    read = read_placed_json if path.suffix.lower() == ".json" else read_placed_yaml
    try:
        config, places = read(_decode(_read_bytes(path)), str(path))
    except OSError as error:
        raise ConfigError(f"{shown(path)}: {_unreadable(path, error)}") from error
    except MalformedError as error:
        raise ConfigError(f"{path}:{error.line}:{error.column}: {error.rule}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: {_other_than_a_mapping(config, path.suffix)}")
    return config, places


def names_in(folder: Path) -> list[str]:
    """Return the names of files in a folder that look like configs; none if it cannot be read."""
    try:
        return [name for name in os.listdir(folder) if name.endswith((".yaml", ".yml", ".json"))][:1000]
    except (OSError, ValueError):
        return []


def _other_than_a_mapping(found: Plain, suffix: str) -> str:
    kind = "nothing" if found is None else "a list" if isinstance(found, list) else f"one value, {shown_value(found)}"
    other = f" {suffix} is not read: write the config as YAML or JSON." if suffix in (".toml", ".py", ".ini") else ""
    return f"must hold a mapping (data:, model:, train:); it holds {kind}.{other}"


def _read_bytes(path: Path) -> bytes:
    opened = _DESCRIPTOR.fullmatch(str(path))
    if opened:
        descriptor = os.dup(int(opened[2] or 0))
    else:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    content = b""
    try:
        if not opened and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise ValueError("is a named pipe; write the config to a file, or give it as /dev/stdin")
        while len(content) <= _BYTES and (part := os.read(descriptor, _BYTES)):
            content += part
    finally:
        os.close(descriptor)
    if len(content) > _BYTES:
        raise ValueError(f"must have at most {_BYTES:,} bytes, and has more. Keep data in separate files.")
    return content


def _decode(content: bytes) -> str:
    found = _OTHER_ENCODINGS.get(content[:2]) or ("UTF-16 or binary" if b"\0" in content[:100] else None)
    if found is not None:
        raise ValueError(f"is not UTF-8 (it looks like {found}); save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"is not UTF-8 (line {line}; it looks like Latin-1 or Windows-1252); save it as UTF-8"
        ) from error


def _unreadable(path: Path, error: OSError) -> str:
    if os.path.isfile(path / CONFIG):  # without an error for a folder that cannot be searched
        return (
            f"is a run or a project, and not a config; {path / CONFIG} is one. `innerstep resume RUN` continues a run."
        )
    meant = nearest(path.name, names_in(path.parent)) if isinstance(error, FileNotFoundError) else "."
    return f"cannot be read: {error.strerror}{meant} Give the path of a YAML or JSON file."
