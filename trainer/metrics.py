"""metrics.jsonl: one JSON object a line."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any

from trainer.disk import flush, open_new, open_to_append, replacing
from trainer.objective import Outcome
from trainer.plain_json import decoded_line, encoded_line
from trainer.updates import Report

Line = dict[str, Any]
METRICS = "metrics.jsonl"
NOT_UNDERSTOOD = "metrics.jsonl.bad"
"""Where lines go that are not ours: notes, and what a power failure or a second process left."""


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
        last, first_dropped, not_ours = _survey(self.path, step)
        size = self.path.stat().st_size
        if not_ours or last > first_dropped or first_dropped > size:
            self._rewrite(step, not_ours)
        elif first_dropped < size:
            os.truncate(self.path, first_dropped)
            flush(self.path)
        return not_ours

    def _rewrite(self, step: int, not_ours: int) -> None:
        """Write the file again without what is dropped, after what is not ours is safe elsewhere."""
        if not_ours:
            bad = self.path.with_name(NOT_UNDERSTOOD)
            with open(open_to_append(bad), "ab") as file:
                file.writelines(text for text, line in _lines(self.path) if line is None)
            flush(bad)
        with replacing(self.path) as aside, open_new(aside) as descriptor, open(descriptor, "wb", closefd=False) as new:
            new.writelines(text for text, line in _lines(self.path) if line is not None and _done_by(line, step))

    def write(self, line: Line) -> None:
        """Append one line. Raises OSError if it cannot be written; the next call tries again to write it too."""
        self._pending += encoded_line(line) + "\n"
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


def training_line(report: Report, updates_per_second: float) -> Line:
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
    return f"after {step} updates, held out: {values}"


def written_evaluation(path: Path, step: int) -> dict[str, float] | None:
    """Return what an evaluation after `step` updates gave, if it was written to the metrics file `path`."""
    found = [line for line in read_metrics(path) if is_evaluation(line, step)]
    return (
        {name: value for name, value in found[-1].items() if name not in ("split", "step", "epoch")} if found else None
    )


def is_evaluation(line: Line, step: int) -> bool:
    """Return whether `line` is of an evaluation after `step` updates."""
    return bool(line["split"] == "held_out" and line["step"] == step)


def read_metrics(path: Path) -> list[Line]:
    """Return the lines of a metrics file that are ours; none if there is no file."""
    return [line for _, line in _lines(path) if line is not None] if path.exists() else []


def looks_like_metrics(path: Path) -> bool:
    """Return whether a file is empty or one of its lines is ours."""
    lines = _lines(path)
    return path.stat().st_size == 0 or any(line is not None for _, line in lines)


def _survey(path: Path, step: int) -> tuple[int, int, int]:
    """Return where the last line to keep begins, where the first to drop does, and how many are not ours."""
    last = at = not_ours = 0
    first_dropped: int | None = None
    for text, line in _lines(path):
        if line is None:
            not_ours += 1
        elif _done_by(line, step):
            last = at
        elif first_dropped is None:
            first_dropped = at
        at += len(text)
    return last, at if first_dropped is None else first_dropped, not_ours


def _lines(path: Path) -> Iterator[tuple[bytes, Line | None]]:
    """Yield each line and what it holds; None for one that is not ours. A last line cut in half is left out."""
    with path.open("rb") as file:
        for text in file:
            line = _line(text)
            if line is None and not text.endswith(b"\n"):
                return
            yield text if text.endswith(b"\n") else text + b"\n", line  # it lacks the end of the line alone


def _line(text: bytes) -> Line | None:
    try:
        line = decoded_line(text.decode())
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(line, dict) and type(line.get("step")) is int and isinstance(line.get("split"), str)
    return line if is_ours else None


def _done_by(line: Line, step: int) -> bool:
    return bool(line["step"] < step) or is_evaluation(line, step)
