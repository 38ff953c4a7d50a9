"""metrics.jsonl: one JSON object a line."""

import errno
import os
import re
import stat
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

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

from ..interfaces.metrics_sink import MetricsLine
from ..interfaces.objective import Outcome
from ..loop.update_report import UpdateReport
from ..run_layout import NOT_UNDERSTOOD
from .record_file import RecordFile
from .tables import number

Mark = tuple[str, int]
"""The split and the step, which every line of ours has."""

HELD_OUT = "held_out"
TIMED = ("updates_per_second", "data_wait")
"""Names of the values in a training line that time decides: they differ between two equal runs."""
_HELD_OUT_TEXT = b'"held_out"'

_CHUNK = 1 << 16
_MAX_FILE_BYTES = 1 << 36
"""Bytes of a metrics file at most: more is a sparse file, which would take days to read."""
_MAX_LINE_BYTES = 1 << 24
"""Bytes of a line of ours at most: a longer one is not held in memory."""
_USUAL_LINE = re.compile(
    rb'\{"split": "([a-z_]+)", "step": (0|[1-9][0-9]{0,17})'
    rb'(?:, "(?!split"|step")[ !#-\[\]-~]*+": -?(?:0|[1-9][0-9]{0,99}+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+)*+\}\n'
)
"""A line as it is nearly always written, names without escapes and finite numbers: valid JSON, and recognised in less
than half the time."""


class MetricsFile:
    """Appends lines to a run's metrics, each of them whole on disk before the next. MetricsLine describes a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = RecordFile(path)

    def keep_before(self, step: int) -> int:
        """Drop the lines that were written after `step` updates were done, and a last line cut in half.

        Lines that are not ours are moved to `metrics.jsonl.bad`.

        Returns:
            The number of lines that were moved.

        Raises:
            OSError: The file cannot be read or written.
        """
        if not os.path.lexists(self.path):
            return 0
        if not stat.S_ISREG(self.path.lstat().st_mode):  # a link may lead to a file of another owner
            raise OSError(errno.EINVAL, "it must be a file, and not a link", str(self.path))
        kept, not_ours, count = _sort_lines(self.path, step)
        size = self.path.stat().st_size
        if not_ours or not kept.is_prefix() or kept.end > size:
            self._rewrite(kept, not_ours)
        elif kept.end < size:
            os.truncate(self.path, kept.end)
            flush(self.path)
        return count

    def _rewrite(self, kept: "_Spans", not_ours: "_Spans") -> None:
        """Write the file again with the lines in `kept`, once those in `not_ours` are safe elsewhere."""
        if not_ours:
            bad = self.path.with_name(NOT_UNDERSTOOD)
            with open(open_to_append(bad), "ab") as file:
                not_ours.copy_to(self.path, file)
            flush(bad)
        with replacing(self.path) as aside, aside.open("xb") as new:
            kept.copy_to(self.path, new)

    def write(self, line: MetricsLine) -> None:
        """Append one line.

        Raises:
            OSError: It cannot be written. The next call writes it first.
        """
        self._records.write(f"{encode_line(line)}\n".encode())

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        self._records.close()


def training_line(report: UpdateReport, updates_per_second: float) -> MetricsLine:
    """Return the line for a training update."""
    losses = report.losses
    return {
        "split": "train",
        "step": report.step,
        "epoch": report.epoch,
        "loss": float(Outcome(losses).total),
        **{f"loss/{name}": float(loss) for name, loss in losses.items()},
        **{name: float(metric) for name, metric in report.metrics.items()},
        **{f"lr/{name}": lr for name, lr in report.lrs.items()},
        **{key: float(value) for key, value in report.gradient_metrics.items()},
        **{f"skipped/{name}": count for name, count in report.skipped.items()},
        "updates_per_second": round(updates_per_second, 2),
        "data_wait": round(report.longest_wait, 4),
    }


def evaluation_text(step: int, metrics: Mapping[str, float]) -> str:
    """Return the line that reports an evaluation after `step` updates to the user."""
    only_loss = sum(name.startswith("loss/") for name in metrics) == 1  # then it is the total too
    shown = {name: value for name, value in metrics.items() if not (only_loss and name.startswith("loss/"))}
    values = "  ".join(f"{name} {number(value)}" for name, value in shown.items())
    return f"after {counted(step, 'update')}, held out: {values}"


def episodes_text(step: int, episodes: int, environment: str, metrics: Mapping[str, float]) -> str:
    """Return the line that reports the episodes after `step` updates to the user."""
    names = [name for name in ("success", "return", "episode_length") if name in metrics]
    values = "  ".join(f"{name} {metrics[name]:.4g}" for name in names)
    return f"after {counted(step, 'update')}, {counted(episodes, 'episode')} in {environment}: {values}"


def written_evaluation(path: Path, step: int) -> dict[str, float] | None:
    """Return the metrics of an evaluation after `step` updates, if it was written to the metrics file `path`."""
    found: bytes | None = None
    for text, _ in _read_lines(path) if os.path.lexists(path) else ():
        if _HELD_OUT_TEXT in text and _mark_of(text) == (HELD_OUT, step):  # most lines are not worth a closer look
            found = text
    if found is None:
        return None
    return {name: value for name, value in decode_line(found).items() if name not in ("split", "step", "epoch")}


def read_metrics(path: Path) -> Iterator[MetricsLine]:
    """Yield the lines of a metrics file that are ours. A file that is not there has none."""
    return (line for line in read_lines(path) if line is not None)


def read_lines(path: Path) -> Iterator[MetricsLine | None]:
    """Yield the lines of a metrics file, None in place of one that is not ours. A file that is not there has none."""
    for text, mark, _ in _marked_lines(path) if os.path.lexists(path) else ():
        yield None if mark is None else decode_line(text)


def looks_like_metrics(path: Path) -> bool:
    """Return whether a file is empty or one of its lines is ours.

    Raises:
        OSError: It cannot be read, or is not a file.
    """
    check_is_file(path)
    return path.stat().st_size == 0 or any(mark is not None for _, mark, _ in _marked_lines(path))


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

    def is_prefix(self) -> bool:
        """Return whether this is the beginning of the file up to somewhere."""
        return not self or (len(self) == 1 and self._bounds[0] == 0)

    def copy_to(self, path: Path, file: IO[bytes]) -> None:
        """Write these parts of the file `path` to `file`, and the end of the last line if it lacks one."""
        with path.open("rb") as old:
            for start, end in zip(self._bounds[::2], self._bounds[1::2], strict=True):
                old.seek(start)
                while start < end:
                    content = old.read(min(end - start, _CHUNK)) or b"\n"
                    start += file.write(content)


def _sort_lines(path: Path, step: int) -> tuple[_Spans, _Spans, int]:
    """Return the parts to keep, the parts that are not ours, and their number of lines. The rest came after `step`."""
    kept, not_ours = _Spans(), _Spans()
    at = count = 0
    for _, mark, size in _marked_lines(path):
        if mark is None:
            count += 1
            not_ours.add(at, at + size)
        elif mark[1] < step or mark == (HELD_OUT, step):
            kept.add(at, at + size)
        at += size
    return kept, not_ours, count


def _marked_lines(path: Path) -> Iterator[tuple[bytes, Mark | None, int]]:
    """Yield each line, its mark (None: it is not ours) and its bytes. A last line cut in half is left out."""
    for text, size in _read_lines(path):
        mark = _mark_of(text)
        if not text.endswith(b"\n"):
            if mark is None:
                return
            size += 1  # it lacks the end of the line alone
        yield text, mark, size


def _read_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each line and its bytes; if a line is too long to be ours, only its end. Raises OSError."""
    check_is_file(path)
    check_size(path, _MAX_FILE_BYTES)
    with path.open("rb") as file:
        while text := file.readline(_MAX_LINE_BYTES):
            size = len(text)
            while len(text) == _MAX_LINE_BYTES and not text.endswith(b"\n"):
                text = b"\0" + file.readline(_MAX_LINE_BYTES - 1)
                size += len(text) - 1
            yield text, size


def _mark_of(text: bytes) -> Mark | None:
    """Return the mark of a line, which is ours if it is JSON that has one."""
    if match := _USUAL_LINE.fullmatch(text):
        return match[1].decode(), int(match[2])
    try:
        line = decode_line(text.decode())
    except (ValueError, RecursionError):
        return None
    if isinstance(line, dict) and type(line.get("step")) is int and isinstance(line.get("split"), str):
        return line["split"], line["step"]
    return None
