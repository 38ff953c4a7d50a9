"""TensorBoard's event files of a run, as far as a resume needs to read and cut them."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from optimizer.state import flush

from .dashboard_lines import BEFORE_ALL, Place, place_of
from .metrics_file import HELD_OUT

EVENT_FILE = re.compile(r"events\.out\.tfevents\.[0-9]{6,}")
"""The name of an event file of ours. TensorBoard reads them in the order of their names."""
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4
_TRAIN_TAG = "train/"


class EventFiles:
    """The event files in a folder. Each session of a run has one.

    Args:
        folder: The folder, which may be missing.
    """

    def __init__(self, folder: Path) -> None:
        names = os.listdir(folder) if os.path.lexists(folder) else []
        self._paths = sorted(folder / name for name in names if EVENT_FILE.fullmatch(name))
        number = 1 + max((int(path.name.rpartition(".")[2]) for path in self._paths), default=-1)
        self.next_path = folder / f"events.out.tfevents.{number:06d}"
        """The path of the next file, which no file there has had: an open reader does not mistake it."""

    def last_place(self) -> Place:
        """Return the place of the last line in the files. What follows a damaged event does not count."""
        return max((place for path in self._paths for place, _ in _lines(path)), default=BEFORE_ALL)

    def keep_until(self, last: Place) -> None:
        """Remove the lines that come after `last`, and all that follows one of them or a damaged event.

        Raises:
            OSError: A file cannot be read or changed.
        """
        kept: list[Path] = []
        is_over = False
        for path in self._paths:
            if not stat.S_ISREG(path.lstat().st_mode):  # a link may lead to a file of another owner
                raise OSError(errno.EINVAL, "it must be a file, and not a link", str(path))
            size = path.stat().st_size
            end = 0 if is_over else _end_of_lines(path, last)
            is_over = is_over or end < size
            if end == 0:
                path.unlink()
                continue
            kept.append(path)
            if end < size:
                os.truncate(path, end)
                flush(path)
        self._paths = kept


def _end_of_lines(path: Path, last: Place) -> int:
    """Return where the lines of a file up to `last` end; 0 if it has none."""
    end = 0
    for place, after in _lines(path):
        if place > last:
            break
        end = after
    return end


def _lines(path: Path) -> Iterator[tuple[Place, int]]:
    """Yield the place of each line in an event file, and where its event ends, up to the first damaged event."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    end = 0
    with path.open("rb") as file:
        while True:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            rest = file.read(_CHECKSUM_BYTES + length + _CHECKSUM_BYTES) if 0 < length < 1 << 30 else b""
            if len(rest) < length + 2 * _CHECKSUM_BYTES or not length:
                return
            end += _LENGTH_BYTES + len(rest)
            try:
                event = Event.FromString(rest[_CHECKSUM_BYTES:-_CHECKSUM_BYTES])
            except DecodeError:
                return
            tags = [value.tag for value in event.summary.value if value.HasField("simple_value")]
            if tags:
                is_train = any(tag.startswith(_TRAIN_TAG) for tag in tags)
                yield place_of("train" if is_train else HELD_OUT, event.step), end
