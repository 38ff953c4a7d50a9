"""The file in which torchrun expects the reason why a process failed."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "TORCHELASTIC_ERROR_FILE"


def write_error_file(message: str, seconds: float | None = None) -> None:
    """Write why this process fails into the file that torchrun reads, if there is one.

    Args:
        message: The reason.
        seconds: When it failed, since 1970; left out, now. torchrun names the process that failed first.
    """
    path = os.environ.get(VARIABLE)
    if not path or os.path.exists(path):
        return
    when = str(int(time.time() if seconds is None else seconds))
    content = {"message": {"message": message, "extraInfo": {"py_callstack": message, "timestamp": when}}}
    with suppress(OSError):  # torchrun names the exit code then
        Path(path).write_text(json.dumps(content), encoding="utf-8")
