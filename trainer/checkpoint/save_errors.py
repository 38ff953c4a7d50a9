"""Errors of saving: whether they stop the run, and which checkpoint there is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from optimizer.config import counted

from ..errors import NewerFormatError, SaveError, UnreadableError, raised
from ..run_layout import CHECKPOINTS
from .directory import complete_checkpoints
from .names import newest_sentence


class SaveErrors:
    """Reports errors of saving.

    Args:
        checkpoints: The folder of the run's checkpoints.
        stops: Whether an OSError stops the run: `train.on_save_error` is "stop".
        log: Prints a line, for an error after which training continues.
    """

    def __init__(self, checkpoints: Path, stops: bool, log: Callable[[str], None]) -> None:
        self._checkpoints, self._stops, self._log = checkpoints, stops, log
        self._has_logged_untidy = False

    def report(self, failure: str, cause: OSError, is_last: bool) -> None:
        """Log a failure together with the checkpoint that there is.

        Args:
            failure: A sentence without its full stop.
            cause: The system's error.
            is_last: Whether the run ends here in any case.

        Raises:
            SaveError: The run stops.
        """
        message = f"{failure}. {newest_checkpoint(self._checkpoints)}"
        if self._stops or is_last:
            raise SaveError(message) from cause
        self._log(f"{message} Training continues.")

    def report_checkpoint(self, failure: BaseException, step: int, is_last: bool) -> None:
        """Report the failure to write a checkpoint, as `report` does.

        Args:
            failure: The exception.
            step: Updates done at the checkpoint.
            is_last: Whether the run ends here in any case.

        Raises:
            SaveError: The run stops, or the failure is not the system's.
            UnreadableError: It is the failure.
            NewerFormatError: It is the failure.
        """
        heading = f"saving the checkpoint after {counted(step, 'update')} failed"
        if isinstance(failure, OSError):
            self.report(f"{heading}: {failure}", failure, is_last)
        elif isinstance(failure, SaveError | UnreadableError | NewerFormatError):
            raise failure
        else:  # a fault that the dry save cannot see
            raise SaveError(f"{heading}: {raised(failure)}. {newest_checkpoint(self._checkpoints)}") from failure

    def log_untidy(self, line: str | None) -> None:
        """Log the line on old checkpoints that cannot be removed, if there is one; only the first is logged."""
        if line is not None and not self._has_logged_untidy:
            self._log(line)
            self._has_logged_untidy = True


def newest_checkpoint(checkpoints: Path) -> str:
    """Return a sentence that names the newest complete checkpoint."""
    try:
        there = complete_checkpoints(checkpoints)
    except UnreadableError as error:
        return str(error)
    return newest_sentence("complete", there[0] if there else None)


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Run the body, which writes into `run_dir`.

    Raises:
        SaveError: The system refused to write. The message names the newest checkpoint.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(f"{run_dir}: cannot be written: {error}. {newest_checkpoint(run_dir / CHECKPOINTS)}") from error
