"""The files in which wandb keeps what it was handed, as far as a resume needs to read them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ..run_layout import WANDB_RUN
from ..runtime.files import read_json

_BLOCK_BYTES, _HEADER_BYTES, _LENGTH_AT, _KIND_AT = 32768, 7, 4, 6
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
"""Kinds of the chunks that records are cut into, so that none crosses the end of a block (LevelDB's log format)."""
NOTHING = -1
"""In place of a step of W&B's, where there is no line yet."""


@dataclass(frozen=True)
class WandbRun:
    """The run of W&B that a run's lines go to."""

    id: str
    config: str
    """A checksum of the config, without the way of a resume."""
    earlier: tuple[str, ...] = ()
    """The ids of runs before it, whose history was another one."""


def written_run(run_dir: Path) -> WandbRun | None:
    """Return the run of W&B that the run in `run_dir` has begun; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        values = read_json(run_dir / WANDB_RUN)
        return WandbRun(str(values["id"]), str(values["config"]), tuple(map(str, values["earlier"])))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def names_of(run_ids: Iterable[str]) -> re.Pattern[str]:
    """Return the names in the folder of wandb that it writes for the runs of these ids."""
    ids = "|".join(map(re.escape, run_ids))
    links = r"latest-run|debug(-internal|-core)?\.log"
    return re.compile(rf"(offline-)?run-[0-9]+_[0-9]+-({ids})(-[0-9]+)?|{links}|wandb-resume\.json")


def last_step(folder: Path, run_id: str) -> int:
    """Return the largest step of W&B's in the files of a run, over all its sessions; -1 if there is none.

    A session that was killed has lost its last lines: those since the last full block.

    Args:
        folder: The folder that wandb writes into.
        run_id: The run's.

    Raises:
        OSError: A file cannot be read.
    """
    paths = folder.glob(f"*run-[0-9]*-{escape(run_id)}*/run-{escape(run_id)}.wandb")
    return max((step for path in paths for step in _steps(path)), default=NOTHING)


def _steps(path: Path) -> Iterator[int]:
    """Yield W&B's step of each line of metrics in a file."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _records(path.read_bytes()):
        try:
            record = Record.FromString(content)
        except DecodeError:
            return
        for item in record.history.item:
            if item.key == "_step" or list(item.nested_key) == ["_step"]:
                yield int(item.value_json)


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the whole records of a file."""
    position, parts = _HEADER_BYTES, b""
    while position + _HEADER_BYTES <= len(content):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _HEADER_BYTES:  # it is padded
            position += left
            continue
        length = int.from_bytes(content[position + _LENGTH_AT : position + _KIND_AT], "little")
        kind = content[position + _KIND_AT]
        start, position = position + _HEADER_BYTES, position + _HEADER_BYTES + length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or position > len(content):
            return
        parts = content[start:position] if kind in (_FULL, _FIRST) else parts + content[start:position]
        if kind in (_FULL, _LAST):
            yield parts
