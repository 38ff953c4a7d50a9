"""metrics.jsonl: one JSON object a line."""

import errno
import os
import re
import stat
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import SEEK_END, FileIO
from pathlib import Path
from typing import IO, Any

from optimizer.config import counted
from optimizer.state import (
    check_is_file,
    check_size,
    decode_line,
    encode_line,
    flush,
    open_to_append,
    replacing,
)

from ..interfaces.objective import Outcome
from ..loop.loop import UpdateReport
from ..run_layout import NOT_UNDERSTOOD

Line = dict[str, Any]
Mark = tuple[str, int]
"""What every line of ours has: its split and its step."""

HELD_OUT = "held_out"
_EVALUATION = b'"held_out"'

_CHUNK = 1 << 16
_MOST = 1 << 36
"""Bytes of a metrics file at most: more is a sparse file, which nobody would see the end of."""
_LONGEST = 1 << 24
"""Bytes of a line of ours at most: a longer one is not held in memory."""
_USUAL = re.compile(
    rb'\{"split": "([a-z_]+)", "step": (0|[1-9][0-9]{0,17})'
    rb'(?:, "(?!split"|step")[ !#-\[\]-~]*+": -?(?:0|[1-9][0-9]{0,99}+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+)*+\}\n'
)
"""A line as it is nearly always written, names without escapes and finite numbers: JSON for sure, and told in less
than half the time."""


class MetricsFile:
    """Appends lines to a run's metrics, each of them whole on disk before the next.

    A line is of one split. `train`: `step` is the update's number, from 0, and the values are those of
    that update. `held_out`: `step` is the number of updates done before the evaluation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._pending = ""
        self._size = 0  # of whole lines

    def keep_before(self, step: int) -> int:
        """Drop what was written after `step` updates were done, and a last line cut in half.

        Lines that are not ours are moved to `metrics.jsonl.bad`. Returns how many there are. Raises OSError.
        """
        if not os.path.lexists(self.path):
            return 0
        if not stat.S_ISREG(self.path.lstat().st_mode):  # what a link leads to may be nobody's business here
            raise OSError(errno.EINVAL, "it must be a file, and not a link", str(self.path))
        kept, not_ours, count = _sorted_out(self.path, step)
        size = self.path.stat().st_size
        if not_ours or not kept.is_beginning() or kept.end > size:
            self._rewrite(kept, not_ours)
        elif kept.end < size:
            os.truncate(self.path, kept.end)
            flush(self.path)
        return count

    def _rewrite(self, kept: "_Spans", not_ours: "_Spans") -> None:
        """Write the file again with what is kept, after what is not ours is safe elsewhere."""
        if not_ours:
            bad = self.path.with_name(NOT_UNDERSTOOD)
            with open(open_to_append(bad), "ab") as file:
                not_ours.copy(self.path, file)
            flush(bad)
        with replacing(self.path) as aside, aside.open("xb") as new:
            kept.copy(self.path, new)

    def write(self, line: Line) -> None:
        """Append one line. Raises OSError if it cannot be written; the next call tries again to write it too."""
        self._pending += encode_line(line) + "\n"
        file = self._opened()
        if file.seek(0, SEEK_END) != self._size:
            file.truncate(self._size)
        content = memoryview(self._pending.encode())
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            with suppress(OSError):  # then the next call does it
                file.truncate(self._size)  # not half a line
            raise
        self._size = file.seek(0, SEEK_END)
        self._pending = ""

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> FileIO:
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:  # it was removed under us
            self.close()
        if self._file is None:
            self._file = FileIO(open_to_append(self.path), "ab")
            self._size = self._file.seek(0, SEEK_END)
        return self._file


def training_line(report: UpdateReport, updates_per_second: float) -> Line:
    """Return the line for a training update."""
    losses = report.losses()
    return {
        "split": "train",
        "step": report.step,
        "epoch": report.epoch,
        "loss": float(Outcome(losses).total),
        **{f"loss/{name}": float(loss) for name, loss in losses.items()},
        **{name: float(metric) for name, metric in report.metrics().items()},
        **{f"lr/{name}": lr for name, lr in report.lrs.items()},
        **{f"grad_norm/{name}": float(norm) for name, norm in report.grad_norms.items()},
        **{f"skipped/{name}": count for name, count in report.skipped.items()},
        "updates_per_second": round(updates_per_second, 2),
    }


def evaluation_text(step: int, metrics: Mapping[str, float]) -> str:
    """Return the line that tells a user of an evaluation after `step` updates."""
    only_loss = sum(name.startswith("loss/") for name in metrics) == 1  # then it is the total too
    shown = {name: value for name, value in metrics.items() if not (only_loss and name.startswith("loss/"))}
    values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    return f"after {counted(step, 'update')}, held out: {values}"


def written_evaluation(path: Path, step: int) -> dict[str, float] | None:
    """Return what an evaluation after `step` updates gave, if it was written to the metrics file `path`."""
    found: bytes | None = None
    for text, _ in _texts(path) if os.path.lexists(path) else ():
        if _EVALUATION in text and _mark(text) == (HELD_OUT, step):  # most lines are not worth a closer look
            found = text
    if found is None:
        return None
    return {name: value for name, value in decode_line(found).items() if name not in ("split", "step", "epoch")}


def read_metrics(path: Path) -> Iterator[Line]:
    """Yield the lines of a metrics file that are ours; none if there is no file."""
    for text, mark, _ in _lines(path) if os.path.lexists(path) else ():
        if mark is not None:
            yield decode_line(text)


def looks_like_metrics(path: Path) -> bool:
    """Return whether a file is empty or one of its lines is ours. Raises OSError."""
    check_is_file(path)
    return path.stat().st_size == 0 or any(mark is not None for _, mark, _ in _lines(path))


class _Spans:
    """Parts of a file in their order, those that touch joined: a million lines must need little memory."""

    def __init__(self) -> None:
        self._bounds = array("q")  # start, end, start, end …

    def __len__(self) -> int:
        return len(self._bounds) // 2

    @property
    def end(self) -> int:
        """Where the last part ends; 0 if there is none."""
        return self._bounds[-1] if self._bounds else 0

    def add(self, start: int, end: int) -> None:
        """Add the part from `start` to `end`, which comes after all others."""
        if self._bounds and self._bounds[-1] == start:
            self._bounds[-1] = end
        else:
            self._bounds.extend((start, end))

    def is_beginning(self) -> bool:
        """Return whether this is the beginning of the file up to somewhere."""
        return not self or (len(self) == 1 and self._bounds[0] == 0)

    def copy(self, path: Path, file: IO[bytes]) -> None:
        """Write what these parts of the file `path` hold to `file`; where the last line lacks its end, with one."""
        with path.open("rb") as old:
            for start, end in zip(self._bounds[::2], self._bounds[1::2], strict=True):
                old.seek(start)
                while start < end:
                    content = old.read(min(end - start, _CHUNK)) or b"\n"
                    start += file.write(content)


def _sorted_out(path: Path, step: int) -> tuple[_Spans, _Spans, int]:
    """Return which parts to keep, which are not ours, and how many lines those are. The rest came after `step`."""
    kept, not_ours = _Spans(), _Spans()
    at = count = 0
    for _, mark, size in _lines(path):
        if mark is None:
            count += 1
            not_ours.add(at, at + size)
        elif mark[1] < step or mark == (HELD_OUT, step):
            kept.add(at, at + size)
        at += size
    return kept, not_ours, count


def _lines(path: Path) -> Iterator[tuple[bytes, Mark | None, int]]:
    """Yield each line, its mark (None: it is not ours) and its bytes. A last line cut in half is left out."""
    for text, size in _texts(path):
        mark = _mark(text)
        if not text.endswith(b"\n"):
            if mark is None:
                return
            size += 1  # it lacks the end of the line alone
        yield text, mark, size


def _texts(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each line and its bytes; of one that is too long to be ours its end alone. Raises OSError."""
    check_is_file(path)
    check_size(path, _MOST)
    with path.open("rb") as file:
        while text := file.readline(_LONGEST):
            size = len(text)
            while len(text) == _LONGEST and not text.endswith(b"\n"):
                text = b"\0" + file.readline(_LONGEST - 1)
                size += len(text) - 1
            yield text, size


def _mark(text: bytes) -> Mark | None:
    """Return the mark of a line, which is ours if it is JSON that has one."""
    if match := _USUAL.fullmatch(text):
        return match[1].decode(), int(match[2])
    try:
        line = decode_line(text.decode())
    except (ValueError, RecursionError):
        return None
    if isinstance(line, dict) and type(line.get("step")) is int and isinstance(line.get("split"), str):
        return line["split"], line["step"]
    return None
