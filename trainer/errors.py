"""What goes wrong through the user's doing, told in one screen."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class ConfigError(ValueError):
    """A config, a file or a run that cannot work as it is. The message says where, why and what to do."""


class SaveError(RuntimeError):
    """A checkpoint or the metrics could not be written. The message says what is there still."""


class OutputError(RuntimeError):
    """What a command was asked to print could not be written. The message gives the system's reason."""


class UnreadableError(RuntimeError):
    """A file or folder of a checkpoint is there, and the system refuses to read it now: no reason to take an older one.

    The message names the file and gives the system's reason.
    """


class NewerFormatError(ConfigError):
    """A checkpoint of a format that a newer innerstep wrote. The message says so and asks for an upgrade."""


class UserCodeError(RuntimeError):
    """Code of the user's (objective, data set, component, metric) failed in a run.

    The message says at which update, what failed in which line, what is saved, and how to continue.
    """


class UnsavableError(UserCodeError):
    """A run has come to hold what no checkpoint can hold. The message says after which update, where, and why."""


class NonFiniteError(RuntimeError):
    """A run stopped before a step because a loss, a gradient or a weight is NaN or infinite.

    The message says at which update, in which component and parameter, and which checkpoint is the newest finite one.
    """


def resume_command(target: Path) -> str:
    """Return the command that takes up a run from its directory or from a checkpoint, quoted for a shell."""
    path = str(target)
    return f"innerstep resume {shlex.quote(f'./{path}' if path.startswith('-') else path)}"


def missing_extra(what: str, package: str, extra: str) -> ConfigError:
    """Return the error that `what` needs an optional `package`, which `extra` brings."""
    return ConfigError(f"{what} needs {package}, which is not installed. Run: pip install 'innerstep[{extra}]'")


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run the body, which is the user's. Raises UserCodeError that says what failed, in which line of theirs."""
    try:
        yield
    except (ConfigError, SaveError, UserCodeError, NonFiniteError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a metric may call sys.exit, and libraries in Rust raise no Exceptions
        error = by_the_user(error)
        raise UserCodeError(f"{what} fails: {raised(error)}") from error


def by_the_user(error: BaseException) -> BaseException:
    """Return `error`, or a RuntimeError in place of StopIteration.

    Python makes it one in a generator, as the loop is, and loses the user's line; an error that StopIteration causes
    does not get through contextlib.
    """
    stop = error.__cause__ if type(error) is RuntimeError else error
    return RuntimeError("StopIteration").with_traceback(stop.__traceback__) if type(stop) is StopIteration else error


def raised(error: BaseException) -> str:
    """Return the type and the message of `error`, and the last line of the user's that it came through."""
    from optimizer.config import message_of  # `innerstep --help` imports this module, and must not import torch

    frames = user_frames(error) or traceback.extract_tb(error.__traceback__)
    message = message_of(error)
    return f"{type(error).__name__}{': ' if message else ''}{message}{_place(frames)}"


def user_line(error: BaseException) -> str:
    """Return the last line of the user's that `error` came through, as " (file.py:3)"; "" if there is none."""
    return _place(user_frames(error))


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines that `error` came through, outside of torch, of innerstep, and of importing a module."""
    ours = [Path(__file__).parent, Path(__file__).parent.parent / "optimizer"]
    libraries = [*ours, Path(os.__file__).parent / "importlib"]
    if "torch" in sys.modules:
        libraries.append(Path(str(sys.modules["torch"].__file__)).parent)
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib")
        and not any(Path(frame.filename).is_relative_to(library) for library in libraries)
    ]


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
