"""metrics.jsonl: one JSON object a line."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any

from trainer.disk import write_atomically
from trainer.objective import Outcome
from trainer.updates import Report

Line = dict[str, Any]
METRICS = "metrics.jsonl"


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

    def keep_before(self, step: int) -> None:
        """Drop what was written after `step` updates were done, and a line cut in half."""
        kept = [line for line in read_metrics(self.path) if _done_by(line, step)]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Line) -> None:
        """Append one line. Raises OSError if it cannot be written; the next call tries again to write it too."""
        self._pending += json.dumps(line) + "\n"
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
            self._file = self.path.open("ab", buffering=0)
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


def is_evaluation(line: Line, step: int) -> bool:
    """Return whether `line` is of an evaluation after `step` updates."""
    return bool(line["split"] == "held_out" and line["step"] == step)


def read_metrics(path: Path) -> list[Line]:
    """Return the lines of a metrics file, without a last one cut in half; none if there is no file."""
    lines = []
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            line = json.loads(text)
            _done_by(line, 0)
        except (ValueError, KeyError, TypeError):  # what follows a line that is none was not written by us either
            break
        lines.append(line)
    return lines


def _done_by(line: Line, step: int) -> bool:
    return bool(line["step"] < step) or is_evaluation(line, step)
