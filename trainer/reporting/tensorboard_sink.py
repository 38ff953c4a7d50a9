"""The sink `tensorboard`: event files in RUN/tensorboard, by the writer of the package tensorboard."""

import time
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import missing_extra
from ..interfaces.metrics_sink import SINK_REGISTRY, MetricsLine
from ..run_layout import CONFIG, TENSORBOARD
from .dashboard_lines import end_of, grouped_values, lines_after
from .event_files import EventFiles
from .record_file import RecordFile

_FILE_VERSION = "brain.Event:2"
"""TensorBoard reads a later session's START in files of this version."""


@SINK_REGISTRY.register("tensorboard")
class TensorBoardSink:
    """Appends each line to an event file, whole before the next. Each session of a run has a file.

    When it is opened, lines of another history are removed from the files, and those of metrics.jsonl that the files
    lack are written.

    Raises:
        OSError: The files cannot be read or written.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        files = EventFiles(run_dir / TENSORBOARD)
        is_ahead = files.last_place() > end_of(step)
        # A reader that is open forgets the lines from `step` on at a START: the evaluation there is written again.
        files.keep_until((step, 0) if is_ahead else end_of(step))
        self._file = RecordFile(files.next_path)
        self._header = [*_first_events(run_dir, step, is_ahead)]
        files.next_path.parent.mkdir(exist_ok=True)
        for line in lines_after(run_dir, files.last_place()):
            self.write(line)

    @staticmethod
    def check_package(path: str) -> None:
        """Check that the extra `tensorboard` is installed.

        Raises:
            ConfigError: It is not.
        """
        try:
            import tensorboard  # noqa: F401 is it there?
        except ImportError as error:
            raise missing_extra(path, "tensorboard", "tensorboard") from error

    def write(self, line: MetricsLine) -> None:
        """Append one line.

        Raises:
            OSError: It cannot be written. The next call writes it first.
        """
        values = [{"tag": name, "simple_value": value} for name, value in grouped_values(line).items()]
        header, self._header = self._header, []
        self._file.write(_records([*header, _event(step=line["step"], summary={"value": values})]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _first_events(run_dir: Path, step: int, is_ahead: bool) -> Iterable[bytes]:
    """Yield the events at the beginning of a file: the version, a START where readers must forget, and the config."""
    yield _event(file_version=_FILE_VERSION)
    if is_ahead:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        yield _event(step=step, session_log={"status": SessionLog.START})
    with suppress(FileNotFoundError):
        yield _event(step=step, summary={"value": [_text(CONFIG, (run_dir / CONFIG).read_text(encoding="utf-8"))]})


def _text(tag: str, yaml: str) -> dict[str, Any]:
    """Return the value of a summary that TensorBoard shows as a block of text."""
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    block = "\n".join(f"    {line}" for line in yaml.splitlines())
    tensor = {"dtype": DT_STRING, "string_val": [block.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
    return {"tag": tag, "metadata": create_summary_metadata(tag, ""), "tensor": tensor}


def _records(events: Iterable[bytes]) -> bytes:
    """Return events as a file has them, with lengths and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event)
    return buffer.getvalue()


def _event(**fields: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    content: bytes = Event(wall_time=time.time(), **fields).SerializeToString()
    return content
