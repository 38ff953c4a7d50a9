"""timeline.jsonl: when a run's processes began and ended, and how long its checkpoints and evaluations took."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optimizer.config import shown
from optimizer.state import check_is_file, check_size, decode_line, encode_line, open_to_append

CHECKPOINT, EVALUATION, PICTURES = "checkpoint", "evaluation", "pictures"
"""The events that take time."""
STARTED, ENDED = "started", "ended"
DONE = "done"
"""The reason why a process ended that finished the run. Another one has the name of an exception as its reason."""

_MAX_BYTES = 1 << 26
"""Bytes of a file of ours at most. A line is written for each checkpoint and each evaluation."""
_MAX_LINE_BYTES = 1 << 20


class Timeline:
    """Appends a line for each event of a process that trains a run.

    The run does not depend on it, so a line that cannot be written is left out.

    Args:
        path: The file; None: nothing is written, as another process of the run writes it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._began = time.monotonic()
        self._inner = [0.0]
        """Seconds of the events inside each event that is under way, the outermost first."""

    @contextmanager
    def recording(self, step: Callable[[], int], about: Mapping[str, Any]) -> Iterator[None]:
        """Run the body, the training of a run, and write how it began and ended.

        Args:
            step: Returns the updates done.
            about: Plain values that describe the process.
        """
        self._write(STARTED, step(), {"time": datetime.now(UTC).isoformat(timespec="seconds"), **about})
        reason, message = DONE, ""
        try:
            yield
        except BaseException as error:
            reason, message = type(error).__name__, shown(str(error).partition("\n")[0])
            raise
        finally:
            self._write(ENDED, step(), {"reason": reason, **({"message": message} if message else {})})

    @contextmanager
    def timing(self, event: str, step: int) -> Iterator[None]:
        """Time the body, without other events inside it, and write the seconds when it is done."""
        began = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            inner = self._inner.pop()
            self._inner[-1] += took
        self._write(event, step, {"seconds": round(took - inner, 4)})

    def _write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        elapsed = round(time.monotonic() - self._began, 3)
        line = encode_line({"event": event, "step": step, "elapsed": elapsed, **values}) + "\n"
        with suppress(OSError):
            descriptor = open_to_append(self._path)
            try:
                os.write(descriptor, line.encode())  # one call: a line is whole or missing
            finally:
                os.close(descriptor)


def read_timeline(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a timeline. Lines that are not ours are left out; a file that is not there has none.

    Raises:
        OSError: It cannot be read, or is not a file.
    """
    if not os.path.lexists(path):
        return
    check_is_file(path)
    check_size(path, _MAX_BYTES)
    with path.open("rb") as file:
        while text := file.readline(_MAX_LINE_BYTES):
            with suppress(ValueError, RecursionError):
                line = decode_line(text)
                if isinstance(line, dict) and isinstance(line.get("event"), str) and _is_count(line.get("step")):
                    yield line


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53
