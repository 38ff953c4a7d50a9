"""Everything that a user sees is printed here: no text from a file controls the terminal that shows it."""

import sys
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from optimizer.config import bounded, visible

from .streams import unfailing, write_out


def output(text: str) -> None:
    """Print what a command was asked for. Raises OutputError if it cannot be written.

    A reader that closes its pipe early has what it wanted.
    """
    write_out(visible(text) + "\n")


def report(text: str) -> None:
    """Print what a command has done. It is done also where that cannot be written."""
    log(Console(file=cast(IO[str], unfailing(sys.stdout))), text)


def complain(text: str, style: str | None = None) -> None:
    """Print a message on the standard error stream."""
    log(Console(stderr=True, file=cast(IO[str], unfailing(sys.stderr))), text, style)


def log(console: Console, text: str, style: str | None = None) -> None:
    """Print a message of limited length."""
    show(console, bounded(text), style)


def show(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: markup and emoji codes in it are text too."""
    console.print(Text(visible(text), style=style or ""), soft_wrap=True)
