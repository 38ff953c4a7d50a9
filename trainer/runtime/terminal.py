"""Everything that a user sees is printed here: text from a file cannot control the terminal."""

import sys
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from optimizer.config import bounded, visible

from ..errors import OutputError
from .streams import unfailing
from .world import World


def output(text: str) -> None:
    """Print the output of a command. A reader that closes its pipe early is not an error.

    Raises:
        OutputError: It cannot be written.
    """
    stream = unfailing(sys.stdout)
    stream.failure = None
    stream.write(visible(text) + "\n")
    stream.flush()
    if stream.failure is not None:
        reason = getattr(stream.failure, "strerror", None) or stream.failure
        raise OutputError(f"the output cannot be written: {reason}")


def report(text: str) -> None:
    """Print a report of finished work. Failing to write it is not an error."""
    log(Console(file=cast(IO[str], unfailing(sys.stdout))), text)


def complain(text: str, style: str | None = None) -> None:
    """Print a message on the standard error stream."""
    log(Console(stderr=True, file=cast(IO[str], unfailing(sys.stderr))), text, style)


def console_of(world: World, console: Console) -> Console:
    """Return `console` for the main process of a run, and one that prints nothing for the others."""
    return console if world.is_main else Console(quiet=True)


def log(console: Console, text: str, style: str | None = None) -> None:
    """Print a message of limited length."""
    show(console, bounded(text), style)


def show(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: markup and emoji codes in it are text too."""
    console.print(Text(visible(text), style=style or ""), soft_wrap=True)
