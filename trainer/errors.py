"""Errors that a user can mend, and their messages."""

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

_MIXED = "got mixed torch.Tensor and DTensor"
"""A part of torch's message about an operation with a shard of a parameter and a whole tensor."""
_SHARDED = (
    "With placement: shard, a component has its whole parameters only in its forward, and in the methods that its class"
    " names in `distributed_methods`: name the method there, or set the placement to replicate"
)


class ConfigError(ValueError):
    """A config, a file or a run that cannot work as it is. The message names the place, the rule and the remedy."""

    exit_code: ClassVar[int] = 2


class ConfigNote(UserWarning):
    """A note on values of a config that are not used, since another file or an override changes a type."""


class SaveError(RuntimeError):
    """A checkpoint or the metrics could not be written. The message names the newest checkpoint."""

    exit_code: ClassVar[int] = 1


class OutputError(RuntimeError):
    """The output of a command could not be written. The message gives the system's reason."""

    exit_code: ClassVar[int] = 1


class UnreadableError(RuntimeError):
    """The system refuses to read a file or folder of a checkpoint now. It may be whole, so that no older one is taken.

    The message names the file and gives the system's reason.
    """

    exit_code: ClassVar[int] = 1


class NewerFormatError(ConfigError):
    """A checkpoint of a format that a newer innerstep wrote. The message asks for an upgrade."""


class UserCodeError(RuntimeError):
    """Code of the user's (objective, data set, component, metric, sink) failed in a run.

    The message names the update, the failure and its line, the newest checkpoint, and the way to continue.
    """

    exit_code: ClassVar[int] = 3


class UnsavableError(UserCodeError):
    """A run holds something that a checkpoint cannot hold. The message names the update, the place and the reason."""


class NonFiniteError(RuntimeError):
    """A run stopped before a step because a loss, a gradient or a weight is NaN or infinite.

    The message names the update, the component, the parameter, and the newest finite checkpoint.
    """

    exit_code: ClassVar[int] = 4


class PeerError(RuntimeError):
    """A run stopped because another of its processes failed, is gone, or hangs. The message names it and its reason.

    Args:
        message: The message.
        exit_code: The exit code for the failure of the other process.
        calls: The lines of the user's code where it failed.
        speaks: Whether this process prints the message, for all.
        seconds: When this process ends, for torchrun, since 1970; None: now.
    """

    def __init__(
        self, message: str, exit_code: int, calls: str = "", speaks: bool = True, seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code, self.calls, self.speaks, self.seconds = exit_code, calls, speaks, seconds


EXPECTED = (ConfigError, SaveError, OutputError, UnreadableError, UserCodeError, NonFiniteError, PeerError)
"""The errors of which a command prints the message alone."""
INTERRUPTED = 130
"""The exit code of a command that was interrupted at once."""
STOPPED_AND_SAVED = 75
"""The exit code of a run that was stopped from outside and that can be resumed: EX_TEMPFAIL of sysexits.h."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that `error` ends."""
    return int(getattr(error, "exit_code", INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1))


def resume_command(target: Path) -> str:
    """Return the command that resumes a run from its directory or from a checkpoint, quoted for a shell."""
    return command_for("resume", target)


def command_for(command: str, target: Path) -> str:
    """Return a command of innerstep on a path, quoted for a shell."""
    path = str(target)
    return f"innerstep {command} {shlex.quote(f'./{path}' if path.startswith('-') else path)}"


def missing_extra(user: str, package: str, extra: str) -> ConfigError:
    """Return the error that `user`, a field or an option, needs an optional `package`, which `extra` installs."""
    return ConfigError(f"{user} needs {package}, which is not installed. Run: pip install 'innerstep[{extra}]'")


@contextmanager
def user_code(name: str) -> Iterator[None]:
    """Run the body, which is the user's code.

    Args:
        name: The body in the message.

    Raises:
        UserCodeError: The body fails. The message names the user's line.
    """
    try:
        yield
    except (ConfigError, SaveError, OutputError, UserCodeError, NonFiniteError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a metric may call sys.exit, and libraries in Rust raise no Exceptions
        error = without_stop_iteration(error)
        raise UserCodeError(f"{name} fails: {raised(error)}") from error


def without_stop_iteration(error: BaseException) -> BaseException:
    """Return `error`, or a RuntimeError in place of StopIteration.

    In a generator, such as the loop, Python makes that one itself and loses the user's line; and an error whose cause
    is StopIteration does not pass through contextlib.
    """
    stop = error.__cause__ if type(error) is RuntimeError else error
    return RuntimeError("StopIteration").with_traceback(stop.__traceback__) if type(stop) is StopIteration else error


def raised(error: BaseException) -> str:
    """Return the type and the message of `error`, and the last line of the user's code in its traceback."""
    from optimizer.config import message_of  # `innerstep --help` imports this module, and must not import torch

    frames = user_frames(error) or traceback.extract_tb(error.__traceback__)
    message = message_of(error)
    text = f"{type(error).__name__}{': ' if message else ''}{message}{_place(frames)}"
    return f"{text}. {_SHARDED}" if _MIXED in message else text


def user_line(error: BaseException) -> str:
    """Return the last line of the user's code in the traceback of `error`, as " (file.py:3)"; "" if there is none."""
    return _place(user_frames(error))


def user_calls(error: BaseException) -> str:
    """Return the lines of `user_frames` as Python prints them."""
    return "".join(traceback.format_list(user_frames(error)))


def calls_of(error: BaseException) -> str:
    """Return the lines of the user's code that made `error`, if it is about such code."""
    if isinstance(error, PeerError):
        return error.calls
    cause = error.__cause__
    if not isinstance(error, UserCodeError) or cause is None:
        return ""
    return str(cause) if cause.__traceback__ is None else user_calls(cause)  # as text from another process


def user_place(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return the last line in `frames` of code that innerstep calls, or else of innerstep, as `file.py:3`.

    Lines of torch and Python do not count.
    """
    python = Path(os.__file__).parent
    outside = [
        frame
        for frame in _outside(_torch(), frames)
        if "site-packages" in frame.filename or not Path(frame.filename).is_relative_to(python)
    ]
    are_theirs = [bool(_outside(_ours(), [frame])) for frame in outside]
    begun = are_theirs.index(False) if False in are_theirs else 0
    called = [frame for frame, is_theirs in zip(outside[begun:], are_theirs[begun:], strict=True) if is_theirs]
    return _place(called or outside or frames).strip(" ()") or "an unknown place"


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines in the traceback of `error` outside torch, innerstep, and the import of a module."""
    libraries = [*_ours(), Path(os.__file__).parent / "importlib", *_torch()]
    return _outside(libraries, traceback.extract_tb(error.__traceback__))


def _ours() -> list[Path]:
    return [Path(__file__).parent, Path(__file__).parent.parent / "optimizer"]


def _torch() -> list[Path]:
    return [Path(str(sys.modules["torch"].__file__)).parent] if "torch" in sys.modules else []


def _outside(folders: Sequence[Path], frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    return [
        frame
        for frame in frames
        if not frame.filename.startswith("<frozen")
        and not any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    ]


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
