"""Metrics sinks of a user: one that keeps the lines, and some that fail."""

import os
import signal
from typing import ClassVar

from trainer import SINK_REGISTRY


@SINK_REGISTRY.register("memory")
class MemorySink:
    """Keeps (event, value) of all its objects in `events`."""

    events: ClassVar = []

    def __init__(self, run_dir, step):
        self.events.append(("opened", step))

    def write(self, line):
        self.events.append(("line", dict(line)))
        line.clear()  # which is this sink's business alone

    def close(self):
        self.events.append(("closed", None))


@SINK_REGISTRY.register("full")
class FullSink(MemorySink):
    """Cannot write the line of update 5."""

    def write(self, line):
        if line["step"] == 5:
            raise OSError(28, "No space left", "the dashboard")
        super().write(line)


@SINK_REGISTRY.register("wrong")
class WrongSink(MemorySink):
    def write(self, line):
        if line["step"] == 5:
            raise ZeroDivisionError("no such panel")


@SINK_REGISTRY.register("unclosable")
class UnclosableSink(MemorySink):
    def close(self):
        raise OSError(28, "No space left", "the dashboard")


@SINK_REGISTRY.register("unopenable")
class UnopenableSink(MemorySink):
    def __init__(self, run_dir, step):
        raise OSError(111, "Connection refused", "the dashboard")


@SINK_REGISTRY.register("killing")
class KillingSink:
    """Kills the process at update 9, once. The sinks before it have the line."""

    def __init__(self, run_dir, step):
        self._marker = run_dir.with_name("killed")

    def write(self, line):
        if line["step"] == 9 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self):
        pass
