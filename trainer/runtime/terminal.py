"""Everything that a user sees is printed here: text from a file cannot control the terminal."""

import sys
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from optimizer.config import bounded, visible

from .streams import unfailing_stream, write_out


def output(text: str) -> None:
    """Print the output of a command. A reader that closes its pipe early is not an error.

    Raises:
        OutputError: It cannot be written.
    """
    write_out(visible(text) + "\n")


def report(text: str) -> None:
    """Print a report of finished work. Failing to write it is not an error."""
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
