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

_TWINS = str.maketrans(
    {"↗": "->", "↘": "->", "×": "x", "√": "sqrt ", "•": "*", "┤": "|", "└": "+", "─": "-", "…": "...", "–": "-"}
)
"""Readable ASCII for the signs that innerstep prints, for encodings that lack them."""


class Unfailing(io.TextIOBase):
    """A text stream to which writing always works: what `stream` refuses is dropped.

    stream: where the text goes; None: nowhere. failure: the last reason that something was dropped for, unless it was
    that nobody reads the stream any more. Characters that its encoding lacks are replaced by readable ASCII.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        """Write `text`, or drop it; return its length."""
        if self.stream is not None:
            self._attempt(lambda stream: _write(stream, text))
        return len(text)

    def flush(self) -> None:
        """Let what was written go on its way, if it can."""
        self._attempt(lambda stream: stream.flush())

    def let_go(self) -> None:
        """Flush. What cannot be written then is dropped, so that Python does not try it again when it ends."""
        if self.stream is None:
            return
        try:
            self.stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                _to_nowhere(self.stream.fileno())
                self.stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property there too, of a class written in C
        """The encoding of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """Return the descriptor of the stream. Raises OSError if it has none."""
        if self.stream is None:
            raise OSError(errno.EBADF, "there is no such stream")
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal that is still there."""
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


def unfailing(stream: TextIO | None) -> Unfailing:
    """Return `stream` as one to which writing always works."""
    return stream if isinstance(stream, Unfailing) else Unfailing(stream)


def write_out(text: str) -> None:
    """Write text to the standard output. A reader that closes its pipe early is not an error.

    Raises:
        OutputError: It cannot be written.
    """
    stream = unfailing(sys.stdout)
    stream.failure = None
    stream.write(text)
    stream.flush()
    if stream.failure is not None:
        reason = getattr(stream.failure, "strerror", None) or stream.failure
        raise OutputError(f"the output cannot be written: {reason}")


@contextmanager
def steady(console: Console | None = None) -> Iterator[Console]:
    """Yield `console`, or a new one; while the body runs, nothing that is printed there, or by `print`, can fail."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(unfailing, before)
    console = console or Console()
    file = console.file
    console.file = unfailing(file)  # type: ignore[assignment,arg-type]  # rich asks for IO, which TextIOBase is not
    try:
        yield console
    finally:
        sys.stdout, sys.stderr = before
        # None: again whatever sys.stdout is then, as it is for a console that was not given a file
        console.file = None if file in before or isinstance(file, Unfailing) else file  # type: ignore[assignment]


@contextmanager
def steady_process() -> Iterator[None]:
    """Run the body, a whole command, with standard streams that cannot fail, and leave nothing unwritten in them."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = unfailing(sys.stdout), unfailing(sys.stderr)
    try:
        yield
    finally:
        for stream in streams:
            stream.let_go()
        sys.stdout, sys.stderr = before


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.translate(_TWINS).encode(encoding, "backslashreplace").decode(encoding))


def _fill_closed_descriptors() -> None:
    """Open what is closed of the three standard descriptors, or a file of the run would get its number.

    Libraries and compilers write their messages to the numbers 1 and 2, whatever those are.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:  # that of the standard error stream is the last
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
