"""Everything that a user sees is printed here: text from a file cannot control the terminal."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from optimizer.config import bounded, visible

from .streams import unfailing_stream, write_out

_NO_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Environment variables by which libraries show no progress."""

_is_quiet = False


@contextmanager
def printing_once(is_main: bool) -> Iterator[None]:
    """Run the body, which all processes of a run do alike; only the main one shows reports, warnings and progress.

    Args:
        is_main: Whether this is the main process.
    """
    global _is_quiet
    if is_main:
        yield
        return
    before, _is_quiet = _is_quiet, True
    for name in _NO_BARS:
        os.environ.setdefault(name, "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _is_quiet = before


def on_terminal(console: Console) -> bool:
    """Return whether `console` prints on a terminal that can be redrawn: no pipe, also where colours are forced."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def output(text: str) -> None:
    """Print the output of a command. A reader that closes its pipe early is not an error.

    Raises:
        OutputError: It cannot be written.
    """
    write_out(visible(text) + "\n")


def report(text: str) -> None:
    """Print a report of finished work. Failing to write it is not an error."""
    if not _is_quiet:
        log(Console(file=cast(IO[str], unfailing_stream(sys.stdout))), text)


def complain(text: str, style: str | None = None) -> None:
    """Print a message on the standard error stream."""
    log(Console(stderr=True, file=cast(IO[str], unfailing_stream(sys.stderr))), text, style)


def log(console: Console, text: str, style: str | None = None) -> None:
    """Print a message of limited length."""
    show(console, bounded(text), style)


def show(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: markup and emoji codes in it are text too."""
    console.print(Text(visible(text), style=style or ""), soft_wrap=True)
