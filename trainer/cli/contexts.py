"""The contexts that commands run in: the modules that they may import, and the signals that end them."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import typer

INTERRUPTED = 130
STOPPED_AND_SAVED = 75
"""The exit code of a run that a signal stopped early and that can be resumed: EX_TEMPFAIL of sysexits.h."""


@contextmanager
def importing_by(source: str, plugins: bool | None) -> Iterator[None]:
    """Let the body import what the config at `source` names, unless --no-plugins forbids it, or it is on the hub."""
    from ..runtime.hub import without_code

    with importing(plugins is False), without_code(source, plugins is not None):
        yield


@contextmanager
def importing(no_plugins: bool) -> Iterator[None]:
    """Let the body import the modules that a config or a key names, also from the working directory; or refuse to."""
    from optimizer import no_plugins as without_plugins
    from optimizer.config import search_in

    from ..config.plugins import working_directory

    with (
        warnings.catch_warnings(),
        search_in(working_directory()),
        without_plugins() if no_plugins else nullcontext(),
    ):
        warnings.showwarning = _in_one_line(warnings.showwarning)
        yield


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints a PluginWarning in one line, and other warnings by `show`."""
    from optimizer.config import PluginWarning

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **options: object) -> None:
        if issubclass(category, PluginWarning):
            complain(f"warning: {message}", "yellow")
        else:
            show(message, category, *place, **options)

    return show_warning


@contextmanager
def interruptible() -> Iterator[None]:
    """Run the body, a run. A signal ends the command with the exit code for it."""
    from ..runtime.signals import StoppedBySignal

    try:
        yield
    except StoppedBySignal as stop:
        complain(str(stop))
        raise typer.Exit(STOPPED_AND_SAVED) from None
    except KeyboardInterrupt as stop:
        complain(str(stop) or "interrupted")
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # at once: a checkpoint that is being written would be waited for


def complain(text: str, style: str | None = None) -> None:
    """Print `text` on standard error."""
    from ..runtime.terminal import complain

    complain(text, style)
