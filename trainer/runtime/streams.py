"""Standard streams and consoles to which writing always works: no terminal, pipe or full device ends a run."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console

from ..errors import OutputError

_ASCII = str.maketrans(
    {"↗": "->", "↘": "->", "×": "x", "√": "sqrt ", "•": "*", "┤": "|", "└": "+", "─": "-", "…": "...", "–": "-"}
)
"""Readable ASCII for the characters that innerstep prints, for encodings that lack them."""


class UnfailingStream(io.TextIOBase):
    """A text stream to which writing always works: text that `stream` refuses is dropped.

    Characters that its encoding lacks are replaced by readable ASCII.

    Args:
        stream: Where the text goes; None: all text is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: Exception | None = None
        """The last reason why text was dropped, except that the reader has closed the stream."""

    def write(self, text: str) -> int:
        """Write `text`, or drop it; return its length.

        Raises:
            TypeError: It is not text. Click takes a stream that accepts bytes for a binary one.
        """
        if not isinstance(text, str):
            raise TypeError(f"must be text, not {type(text).__name__}")
        if self.stream is not None:
            self._attempt(lambda stream: _write(stream, text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be flushed."""
        self._attempt(lambda stream: stream.flush())

    def finish(self) -> None:
        """Flush. Text that cannot be written is dropped, so that Python does not try again when it ends."""
        if self.stream is None:
            return
        try:
            self.stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                _discard_output(self.stream.fileno())
                self.stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property there too, of a class written in C
        """The encoding of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """Return the descriptor of the stream.

        Raises:
            OSError: It has none.
        """
        if self.stream is None:
            raise OSError(errno.EBADF, "there is no such stream")
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is an open terminal."""
        try:
            return self.stream is not None and self.stream.isatty()
        except (OSError, ValueError):
            return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        try:
            if self.stream is not None:
                action(self.stream)
        except BrokenPipeError:
            pass
        except Exception as error:  # a stream may be anything with a method `write`
            self.failure = error


def unfailing_stream(stream: TextIO | None) -> UnfailingStream:
    """Return `stream` as one to which writing always works."""
    return stream if isinstance(stream, UnfailingStream) else UnfailingStream(stream)


def write_out(text: str) -> None:
    """Write text to the standard output. A reader that closes its pipe early is not an error.

    Raises:
        OutputError: It cannot be written.
    """
    stream = unfailing_stream(sys.stdout)
    stream.failure = None
    stream.write(text)
    stream.flush()
    if stream.failure is not None:
        reason = getattr(stream.failure, "strerror", None) or stream.failure
        raise OutputError(f"the output cannot be written: {reason}")


@contextmanager
def steady_console(console: Console | None = None) -> Iterator[Console]:
    """Yield `console`, or a new one; while the body runs, printing there or by `print` cannot fail."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(unfailing_stream, before)
    console = console or Console()
    file = console.file
    console.file = unfailing_stream(file)  # type: ignore[assignment,arg-type]  # rich asks for IO, which TextIOBase is not
    try:
        yield console
    finally:
        sys.stdout, sys.stderr = before
        # None: again whatever sys.stdout is then, as it is for a console that was not given a file
        console.file = None if file in before or isinstance(file, UnfailingStream) else file  # type: ignore[assignment]


@contextmanager
def steady_process() -> Iterator[None]:
    """Run the body, a whole command, with standard streams that cannot fail. They are flushed at the end."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = unfailing_stream(sys.stdout), unfailing_stream(sys.stderr)
    try:
        yield
    finally:
        for stream in streams:
            stream.finish()
        sys.stdout, sys.stderr = before


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding))


def _fill_closed_descriptors() -> None:
    """Open each standard descriptor that is closed. A file of the run would get its number otherwise.

    Libraries and compilers write their messages to the descriptors 1 and 2, whatever those are.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:  # that of the standard error stream is the last
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)


def _discard_output(descriptor: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)
