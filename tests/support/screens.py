"""Consoles of a given width, and the text that is on them."""

import io
import re

from rich.console import Console


class Terminal(io.StringIO):
    """A file that is a terminal."""

    def isatty(self):
        """Return True."""
        return True


def terminal(width, **options):
    """Return a console on a terminal of `width` columns; its `file` keeps what is printed."""
    return Console(file=Terminal(), force_terminal=True, width=width, **options)


def pipe():
    """Return a console on a pipe."""
    return Console(file=io.StringIO())


def text_on(console):
    """Return the text printed on a console, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def drawn(renderable, width):
    """Return the lines that a renderable has on a terminal of `width` columns."""
    console = terminal(width)
    console.print(renderable, crop=False)
    return [line.rstrip() for line in text_on(console).splitlines()]
