"""The contexts that commands run in: the modules that they may import, and the signals that end them."""

import atexit
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import typer


@contextmanager
def without_collection() -> Iterator[None]:
    """Run the body, which imports torch and what a command needs, without looking for garbage.

    What is imported stays, and there is much of it: each search would take a tenth of a second. Later ones leave out
    what is there at the end of the body.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def importing_by(source: str | Sequence[str], plugins: bool | None) -> Iterator[None]:
    """Let the body import what the config at `source` names, unless --no-plugins forbids it, or it is on the hub."""
    from ..runtime.hub import is_reference, without_code

    sources = [source] if isinstance(source, str) else source
    on_hub = next(filter(is_reference, sources), None)
    with importing(plugins is False), without_code(on_hub, plugins is not None):
        yield


@contextmanager
def importing(no_plugins: bool) -> Iterator[None]:
    """Let the body import the modules that a config or a key names, also from the working directory; or refuse to."""
    from optimizer.config import no_plugins as without_plugins
    from optimizer.config import search_in

    from ..config.plugins import working_directory
    from ..errors import ConfigNote
    from ..runtime.terminal import printing_once

    with (
        printing_once(not _is_one_of_several() or _is_main()),
        warnings.catch_warnings(),
        search_in(working_directory()),
        without_plugins() if no_plugins else nullcontext(),
    ):
        warnings.simplefilter("always", ConfigNote)
        warnings.showwarning = _in_one_line(warnings.showwarning)
        yield


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints warnings and notes for users in one line, and others by `show`."""
    from optimizer.config import PluginWarning

    from ..errors import ConfigNote

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **options: object) -> None:
        if issubclass(category, PluginWarning):
            complain(f"warning: {message}", "yellow")
        elif issubclass(category, ConfigNote):
            complain(f"note: {message}")
        else:
            show(message, category, *place, **options)

    return show_warning


@contextmanager
def interruptible() -> Iterator[None]:
    """Run the body, a run. A signal ends the command with the exit code for it."""
    from ..errors import INTERRUPTED, STOPPED_AND_SAVED
    from ..runtime.signals import StoppedBySignal

    try:
        yield
    except StoppedBySignal as stop:
        report_end(stop, str(stop))
        raise typer.Exit(STOPPED_AND_SAVED) from None
    except KeyboardInterrupt as stop:
        report_end(stop, str(stop) or "interrupted")
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # at once: a checkpoint that is being written would be waited for


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Run the body, a whole command. If it fails as one process of several, the process ends without waiting for them.

    The threads and connections of the others would be waited for when Python ends. If the body is done, the process
    waits for the user's threads and the functions of atexit, but not for Python's end: a thread of gloo that drops a
    tensor then aborts the process now and then.
    """
    if not _is_one_of_several():
        yield
        return
    atexit.register(_end, 0)  # called after those that are registered later
    code: object = 1
    try:
        yield
        return
    except SystemExit as error:
        if not error.code:
            raise
        code = error.code
    except BaseException:
        traceback.print_exc()
    _end(code if isinstance(code, int) else 1)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report_end(error: BaseException, message: str, calls: str = "", style: str | None = None) -> None:
    """Print why the command ends. If several processes train a run, one prints it for all.

    Args:
        error: The reason.
        message: Its message.
        calls: The lines of the user's code that made it.
        style: For the message.
    """
    from ..distributed.error_file import write_error_file

    if _speaks(error):
        if calls:
            complain(calls.rstrip())
        complain(message, style)
    write_error_file(message, getattr(error, "seconds", None))


def _speaks(error: BaseException) -> bool:
    """Return whether this process prints the message of `error`: the main one does, unless it cannot."""
    if not _is_one_of_several():
        return True
    from ..distributed.environment import Environment
    from ..distributed.launch import report_early
    from ..errors import PeerError

    if isinstance(error, PeerError):
        return error.speaks
    is_known = report_early(error)
    return Environment.read().rank == 0 or not is_known


def refuse_several_processes(command: str | None) -> None:
    """Refuse a command that torchrun started in several processes, each of which would do the same.

    Raises:
        ConfigError: There are several.
    """
    if _is_one_of_several():
        from ..errors import ConfigError

        raise ConfigError(
            f"innerstep {command}: runs in one process; only train and resume run in several. Start it without"
            " torchrun, or unset RANK and WORLD_SIZE."
        )


def _is_one_of_several() -> bool:
    """Return whether a launcher started this process as one of several."""
    from ..distributed.environment import Environment
    from ..errors import ConfigError

    try:
        return Environment.read().size > 1
    except ConfigError:  # which ends the command
        return False


def _is_main() -> bool:
    from ..distributed.environment import Environment

    return Environment.read().rank == 0


def complain(text: str, style: str | None = None) -> None:
    """Print `text` on standard error."""
    from ..runtime.terminal import complain

    complain(text, style)
