"""What goes wrong through the user's doing, told in one screen."""

import traceback
from pathlib import Path


class ConfigError(ValueError):
    """A config, a file or a run that cannot work as it is. The message says where, why and what to do."""


class SaveError(RuntimeError):
    """A checkpoint or the metrics could not be written. The message says what is there still."""


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


class NonFiniteError(RuntimeError):
    """A run stopped before a step because a loss, a gradient or a weight is NaN or infinite.

    The message says at which update, in which component and parameter, and which checkpoint is the newest finite one.
    """


def missing_extra(what: str, package: str, extra: str) -> ConfigError:
    """Return the error that `what` needs an optional `package`, which `extra` brings."""
    return ConfigError(f"{what} needs {package}, which is not installed. Run: pip install 'innerstep[{extra}]'")


def raised(error: Exception) -> str:
    """Return the type and the message of `error`, and the last line outside of torch that it came through."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    frame = next((frame for frame in frames if "torch" not in frame.filename), None)
    where = f" ({Path(frame.filename).name}:{frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{where}"
