"""Reads a config's file, YAML or JSON, into plain values."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .plain_values import plain, read_real, read_whole
from .yaml_values import read_yaml

_BYTES = 1_000_000
"""Of a config's file at most."""
_DESCRIPTOR = re.compile(r"/dev/(stdin)|(?:/dev|/proc/self)/fd/([0-9]{1,6})")
"""A file that the shell has opened: `innerstep plan <(sed s/a/b/ c.yaml)` gives /dev/fd/63."""
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "a gzip file", b"PK": "a zip file"}


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML (or `.json`) file at `path`, which holds plain values only.

    A pipe that is open already (/dev/stdin, /dev/fd/N) is read to its end. A named pipe is refused,
    as it may have no writer.

    Raises ConfigError if it cannot be read, with line and column where it is not well-formed.
    """
    try:
        text = _decoded(_content(path))
        config = _read_json(text) if path.suffix.lower() == ".json" else read_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. Give the path of a YAML or JSON file.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        found = "nothing" if config is None else f"a {type(config).__name__}"
        raise ConfigError(f"{path}: must hold a mapping (data:, model:, train:); it holds {found}")
    return config


def _content(path: Path) -> bytes:
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
        raise ValueError(f"must have at most {_BYTES:,} bytes, and has more. Keep data in files of its own.")
    return content


def _decoded(content: bytes) -> str:
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


def _read_json(text: str) -> Any:
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_int=read_whole, parse_float=read_real)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    return plain(values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"the key {key[:60]!r} is given twice")
        mapping[key] = value
    return mapping
